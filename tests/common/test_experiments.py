"""The table of a comparison of methods, from scores that are known; the runs themselves are stood in for."""

import csv
import json
import math

import pytest
from scipy.stats import wilcoxon

from common.errors import ConfigError
from common.experiments import methods
from common.experiments.methods import MethodComparison, mean_scores, tabulate

CASES = [f"c{index}" for index in range(8)]


def scores(level, slope=0.01, rare=0.2):
    """Two classes in eight cases; the second is rare."""
    made = {}
    for index, case in enumerate(CASES):
        first = {"dsc": level + slope * index, "assd": 2.0, "share": 0.05}
        second = {"dsc": rare + 2 * slope * index, "assd": 4.0, "share": 0.001}
        mean = {"dsc": (first["dsc"] + second["dsc"]) / 2, "assd": 3.0}
        made[case] = {"1": first, "2": second, "mean": mean}
    return made


def test_case_counts_once_however_many_runs_there_were():
    averaged = mean_scores([scores(0.5), scores(0.7), scores(0.6)])
    assert list(averaged) == CASES
    assert averaged["c3"]["1"] == pytest.approx({"dsc": 0.63, "assd": 2.0, "share": 0.05})
    assert set(averaged["c3"]["mean"]) == {"dsc", "assd"}


def test_table_holds_means_spread_and_tests_with_n():
    results = {0.1: {"ours": [scores(0.7), scores(0.8)], "CPS": [scores(0.6, 0.02), scores(0.7, 0.02)]}}
    ours, other = tabulate(results, "CPS")
    assert (ours["labeled_fraction"], ours["method"], ours["runs"], ours["n"]) == (0.1, "ours", 2, 8)
    means = [sum(run[case]["mean"]["dsc"] for case in CASES) / 8 for run in results[0.1]["ours"]]
    assert ours["dsc"] == pytest.approx(sum(means) / 2)
    assert ours["dsc_std_of_runs"] == pytest.approx(abs(means[0] - means[1]) / 2)
    assert ours["rarest_class"] == "2"
    assert ours["dsc_rarest"] == ours["dsc_2"] == pytest.approx(0.2 + 0.02 * 3.5)
    assert ours["dsc_1"] == pytest.approx(0.75 + 0.01 * 3.5)
    assert ours["assd"] == pytest.approx(3.0)
    pairs = [mean_scores(results[0.1][name]) for name in ("ours", "CPS")]
    changes = [pairs[0][case]["mean"]["dsc"] - pairs[1][case]["mean"]["dsc"] for case in CASES]
    assert ours["p_dsc"] == pytest.approx(wilcoxon(changes).pvalue)
    assert (ours["n_dsc"], ours["n_dsc_rarest"]) == (8, 8)
    assert "p_dsc" not in other, "the reference is not tested against itself"


def test_number_of_cases_beside_a_p_is_that_of_the_test():
    """Two cases lack the rare class: one in each method."""
    ours, other = scores(0.7), scores(0.6, 0.02)
    ours["c1"]["2"]["dsc"] = other["c5"]["2"]["dsc"] = math.nan
    row = tabulate({0.1: {"ours": [ours], "CPS": [other]}}, "CPS")[0]
    assert (row["n"], row["n_dsc"], row["n_dsc_rarest"]) == (8, 8, 6)


@pytest.fixture
def comparison(monkeypatch, tmp_path):
    """A comparison whose trainings write nothing and whose evaluations write a table of cases."""
    calls = []

    def run(config_file, output_dir, **settings):
        files = [str(file).rsplit("/", 1)[-1] for file in config_file]
        calls.append((files, settings))
        folder = tmp_path / "runs" / str(output_dir).split("/runs/")[1]
        folder.mkdir(parents=True, exist_ok=True)
        if files[0] == "train.json":
            return
        level = 0.6 + 0.1 * ("cps.json" not in files)
        with open(folder / "cases.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["case", "in_distribution", "channel", "share", "dsc", "assd"])
            for index, case in enumerate(CASES):
                table.writerow([case, "True", 1, 0.05, level + 0.01 * index, 2])
                table.writerow([case, "True", 2, 0.001, 0.3 + 0.02 * index, 3])
        per_class = {"1": {"iou": level}, "2": {"iou": None if level < 0.65 else 0.3}}
        (folder / "metrics.json").write_text(json.dumps({"test_set": {"per_class": per_class}}))

    monkeypatch.setattr(methods.monai.bundle, "run", run)

    def make(**settings):
        given = {
            "methods": {"CPS": ["cps.json"], "A + B": [{"mixing": "none"}]}, "labeled_fractions": [0.1, 0.2],
            "dataset_dir": "data",
            "seeds": [0, 1], "reference": "CPS", "train_settings": {"max_epochs": 3}, "evaluate_settings": {},
        } | settings  # fmt: skip
        return MethodComparison("bundle", str(tmp_path / "runs"), **given), calls

    return make


def test_every_combination_is_trained_and_evaluated_once(comparison, tmp_path, read_picture):
    made, calls = comparison(overlays=["full.json"])
    rows = made.run()
    assert [(row["labeled_fraction"], row["method"]) for row in rows] == [
        (fraction, method) for fraction in (0.1, 0.2) for method in ("CPS", "A + B")
    ]
    assert len(calls) == 2 * 2 * 2 * 2
    assert calls[0][0] == ["train.json", "full.json", "cps.json"]
    assert calls[1][0] == ["evaluate.json", "full.json", "cps.json"]
    assert {call[1]["split_seed"] for call in calls[::2]} == {0}, "the same test cases for all"
    assert {(call[1]["labeled_fraction"], call[1]["seed"]) for call in calls[::2]} == {
        (f, s) for f in (0.1, 0.2) for s in (0, 1)
    }
    assert [call[1].get("mixing") for call in calls[::2]] == [None, None, "none", "none"] * 2
    assert calls[1][1]["split_file"].endswith("cps_0.1_seed_0/split.json")
    read_picture(tmp_path / "runs" / "dice_per_class_0.1.png")
    with open(tmp_path / "runs" / "methods.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["n"] for row in table] == ["8"] * 4
    assert [bool(row["p_dsc"]) for row in table] == [False, True] * 2
    assert json.loads((tmp_path / "runs" / "methods.json").read_text())["reference"] == "CPS"
    assert [float(row["iou_1"]) for row in table] == pytest.approx([0.6, 0.7] * 2)
    assert [row["iou_2"] for row in table] == ["nan", "0.3"] * 2, "a class that no test image has"
    assert [float(row["dsc_1"]) for row in table] == pytest.approx([0.635, 0.735] * 2)
    assert [float(row["dsc_2"]) for row in table] == pytest.approx([0.37] * 4)
    made.run()
    assert len(calls) == 16, "what is finished is not repeated"


@pytest.mark.parametrize(
    ("name", "value"),
    [("train_settings", {"max_epochs": 4}), ("evaluate_settings", {"overlap": 0.5}), ("dataset_dir", "other")],
)
def test_runs_with_other_settings_are_not_mixed_in(comparison, name, value):
    comparison()[0].run()
    with pytest.raises(ConfigError, match="holds a run with other settings; choose another output_dir"):
        comparison(**{name: value})[0].run()


def test_epochs_of_different_length_are_refused(comparison):
    with pytest.raises(ConfigError, match=r"samples_per_epoch is null.*accepted is a number of patches"):
        comparison(train_settings={"samples_per_epoch": None})


def test_reference_must_be_a_method(comparison):
    with pytest.raises(ConfigError, match="reference is 'DHC'; accepted are the methods CPS, A"):
        comparison(reference="DHC")
