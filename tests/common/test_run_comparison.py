import csv
import json
import math

import pytest
from scipy.stats import wilcoxon

from common.errors import MissingDataError
from common.experiments.runs import RunComparison, class_shares, compare_scores, read_scores
from common.metrics.statistics import signed_rank

COLUMNS = ["case", "in_distribution", "channel", "share", "dsc", "assd"]


def write_cases(folder, dice, shares=(0.05, 0.002), strange=True):
    """A table of cases; ``dice``: case -> Dice of each class."""
    folder.mkdir(parents=True)
    with open(folder / "cases.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for case, values in dice.items():
            for index, value in enumerate(values, start=1):
                table.writerow([case, "True", index, shares[index - 1], value, "" if math.isnan(value) else 10 * value])
        if strange:
            table.writerow(["odd", "False", 1, 0.5, 0.1, 1])
            table.writerow(["bare", "True", "", "", "", ""])
    return folder


FIRST = {f"c{i}": (0.8 + 0.01 * i, 0.4 + 0.02 * i) for i in range(8)}
SECOND = {f"c{i}": (0.78 + 0.008 * i, 0.5 - 0.01 * i) for i in range(8)}


def test_signed_rank_is_that_of_scipy_over_the_pairs_that_exist():
    first, second = [0.5, 0.7, math.nan, 0.9, 0.4, 0.8], [0.4, 0.75, 0.3, 0.6, math.nan, 0.1]
    figures = signed_rank(first, second)
    expected = wilcoxon([0.5, 0.7, 0.9, 0.8], [0.4, 0.75, 0.6, 0.1])
    assert figures["n"] == 4
    assert figures["p"] == pytest.approx(expected.pvalue)
    assert figures["first"] == pytest.approx(0.725)
    assert figures["difference"] == pytest.approx(0.2625)


def test_pairs_that_do_not_differ_have_a_p_of_one():
    assert signed_rank([0.5, 0.7], [0.5, 0.7])["p"] == 1.0
    assert signed_rank([math.nan], [0.5]) == {"n": 0, "first": None, "second": None, "difference": None, "p": None}


def test_scores_are_those_of_labeled_known_cases_with_their_means(tmp_path):
    scores = read_scores(write_cases(tmp_path / "a", {"x": (0.8, 0.4), "y": (0.6, math.nan)}))
    assert set(scores) == {"x", "y"}
    assert scores["x"]["mean"] == pytest.approx({"dsc": 0.6, "assd": 6.0})
    assert scores["y"]["mean"] == pytest.approx({"dsc": 0.6, "assd": 6.0})
    assert list(class_shares(scores)) == ["2", "1"], "the rarest first"


def test_rows_hold_every_metric_and_class_with_n_beside_p(tmp_path):
    rows = compare_scores(*(read_scores(write_cases(tmp_path / n, d)) for n, d in (("a", FIRST), ("b", SECOND))))
    assert [(row["metric"], row["class"]) for row in rows] == [
        (metric, name) for metric in ("dsc", "assd") for name in ("mean", "1", "2")
    ]
    for row in rows:
        assert row["n"] == 8
    by_hand = wilcoxon([v[1] for v in FIRST.values()], [v[1] for v in SECOND.values()])
    assert rows[2]["p"] == pytest.approx(by_hand.pvalue)


@pytest.mark.parametrize("given", ["{'other run': folder}", "[folder]", "folder"])
def test_comparison_is_written(tmp_path, read_picture, given):
    own, other = write_cases(tmp_path / "own", FIRST), write_cases(tmp_path / "other", SECOND)
    folder = str(other)
    compare_with = {"{'other run': folder}": {"other run": folder}, "[folder]": [folder], "folder": folder}[given]
    rows = RunComparison(str(own), compare_with).run()
    name = "other run" if isinstance(compare_with, dict) else "other"
    assert {row["run"] for row in rows} == {name}
    assert json.loads((own / "comparison.json").read_text())["rows"] == rows
    with open(own / "comparison.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["p"]) for row in table] == [row["p"] for row in rows]
    assert table[0].keys() == {"run", "metric", "class", "n", "first", "second", "difference", "p"}
    read_picture(own / "dice_per_class.png")


def test_run_alone_gets_its_picture(tmp_path, read_picture):
    own = write_cases(tmp_path / "own", FIRST)
    assert RunComparison(str(own)).run() == []
    read_picture(own / "dice_per_class.png")
    assert not (own / "comparison.csv").exists()


def test_run_without_labels_draws_nothing(tmp_path):
    own = write_cases(tmp_path / "own", {})
    assert RunComparison(str(own)).run() == []
    assert not list(own.glob("*.png"))


def test_folder_without_an_evaluation_is_refused(tmp_path):
    own = write_cases(tmp_path / "own", FIRST)
    with pytest.raises(MissingDataError, match=r"compare_with .*nowhere holds no cases.csv; give the output_dir"):
        RunComparison(str(own), [str(tmp_path / "nowhere")]).run()


def test_evaluation_of_other_cases_is_refused(tmp_path):
    own, other = write_cases(tmp_path / "own", FIRST), write_cases(tmp_path / "other", {"z": (0.1, 0.2)})
    with pytest.raises(
        MissingDataError, match=r"has none of this evaluation's 8 labeled case\(s\); evaluate both runs"
    ):
        RunComparison(str(own), [str(other)]).run()
