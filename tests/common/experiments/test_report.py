"""Tables and figures from rows alone; the numbers follow by hand."""

import csv
import math

import pytest
from scipy.stats import wilcoxon

from common.errors import ConfigError, MissingDataError
from common.experiments import report
from common.experiments.report import load_rows, write_report
from common.experiments.rows import COLUMNS
from common.experiments.summary import summarize_rows, with_ious

PATIENTS = [f"p{number}" for number in range(6)]


def rows_of(arm, seed, dice, *, dataset="heads", labeled="0.1", dose="", metric="dsc", fold=""):
    """The rows of a run whose Dice of every patient is given; the Dice of the test set is 0.01 below the first."""
    run = dict.fromkeys(COLUMNS, "") | {"experiment": "trial", "dataset": dataset, "arm": arm, "labeled": labeled}
    run |= {"seed": str(seed), "fold": fold, "metric": metric, "swept": "share" if dose else "", "dose": dose}
    whole = run | {"value": str(dice[0] - 0.01)}
    return [whole, *(run | {"case": name, "value": str(value)} for name, value in zip(PATIENTS, dice, strict=False))]


@pytest.fixture
def write(tmp_path):
    def make(*runs):
        with open(tmp_path / "trial.csv", "w", newline="") as file:
            table = csv.DictWriter(file, COLUMNS)
            table.writeheader()
            table.writerows(row for rows in runs for row in rows)
        return tmp_path / "trial.csv"

    return make


def line_of(table, **cell):
    for name, value in cell.items():
        table = table[table[name] == value]
    (line,) = table.to_dict("records")
    return line


BASE = [0.50, 0.52, 0.54, 0.56, 0.58, 0.60]
BETTER = [0.61, 0.60, 0.66, 0.61, 0.70, 0.66]


def shifted(values, by):
    return [value + by for value in values]


def test_patient_counts_once_with_the_mean_over_seeds(write):
    file = write(
        rows_of("base", 0, BASE), rows_of("base", 1, shifted(BASE, 0.02)),
        rows_of("better", 0, BETTER), rows_of("better", 1, shifted(BETTER, 0.04)),
    )  # fmt: skip
    table = summarize_rows(load_rows(file), "base")
    base, better = (line_of(table, arm=arm) for arm in ("base", "better"))
    assert (base["n"], base["runs"], better["n_pairs"]) == (6, 2, 6)
    assert base["mean"] == pytest.approx(sum(BASE) / 6 + 0.01)
    assert base["sd_of_seeds"] == pytest.approx(0.01)
    assert BASE[0] + 0.01 < base["mean_low"] < base["mean"] < base["mean_high"] < BASE[-1] + 0.01
    # The mean of six such values has a standard error of 0.014, in samples drawn from them.
    assert base["mean_high"] - base["mean_low"] == pytest.approx(2 * 1.96 * 0.0342 / math.sqrt(6), rel=0.1)
    assert better["sd_of_seeds"] == pytest.approx(0.02)
    assert base["whole"] == pytest.approx(0.50)
    changes = sorted(b + 0.02 - (a + 0.01) for a, b in zip(BASE, BETTER, strict=True))
    assert better["median_difference"] == pytest.approx((changes[2] + changes[3]) / 2)
    assert better["low"] <= better["median_difference"] <= better["high"]
    assert better["p"] == better["p_holm"] == pytest.approx(wilcoxon(changes).pvalue)
    assert math.isnan(base["p"])


def test_arms_are_tested_on_the_seeds_that_both_have(write):
    file = write(
        rows_of("base", 0, BASE), rows_of("base", 1, shifted(BASE, 0.3)), rows_of("better", 0, shifted(BASE, 0.1)),
        rows_of("other", 2, BETTER),
    )  # fmt: skip
    table = summarize_rows(load_rows(file), "base")
    better, other = (line_of(table, arm=arm) for arm in ("better", "other"))
    assert better["median_difference"] == pytest.approx(0.1)
    assert line_of(table, arm="base")["mean"] == pytest.approx(0.55 + 0.15)
    assert math.isnan(other["p"])


def test_folds_hold_different_patients_of_one_seed(write):
    """Every patient is tested once: three in each fold."""
    half = PATIENTS[3:]
    second = [
        row | {"case": half[int(row["case"][1])]} if row["case"] else row for row in rows_of("a", 0, BASE[3:], fold="1")
    ]
    (line,) = summarize_rows(load_rows(write(rows_of("a", 0, BASE[:3], fold="0"), second)), "a").to_dict("records")
    assert (line["n"], line["runs"], line["sd_of_seeds"]) == (6, 2, 0)
    assert line["mean"] == pytest.approx(sum(BASE) / 6)
    assert line["whole"] == pytest.approx((BASE[0] + BASE[3]) / 2 - 0.01)


def test_tests_are_corrected_over_the_arms_and_numbers_of_labels_of_one_data_set(write):
    worse = [0.4, 0.5, 0.53, 0.57, 0.59, 0.61]
    file = write(
        rows_of("base", 0, BASE), rows_of("better", 0, BETTER), rows_of("other", 0, worse),
        rows_of("base", 0, BASE, labeled="0.2"), rows_of("better", 0, BETTER, labeled="0.2"),
    )  # fmt: skip
    table = summarize_rows(load_rows(file), "base")
    better, other = (line_of(table, arm=arm, labeled="0.1") for arm in ("better", "other"))
    assert better["p"] < other["p"]
    more = line_of(table, arm="better", labeled="0.2")
    assert more["p"] == better["p"]
    assert better["p_holm"] == more["p_holm"] == pytest.approx(3 * better["p"])
    assert other["p_holm"] == pytest.approx(max(other["p"], 3 * better["p"]))


def test_arms_are_tested_at_the_same_dose_and_the_reference_at_its_first(write):
    runs = [rows_of(arm, 0, shifted(BASE, by), dose=dose) for arm, dose, by in (
        ("base", "0", 0), ("base", "1", 0.1), ("better", "0", 0.2), ("better", "1", 0.5)
    )]  # fmt: skip
    table = summarize_rows(load_rows(write(*runs)), "base")
    found = {(line["arm"], line["dose"]): line["median_difference"] for line in table.to_dict("records")}
    assert math.isnan(found.pop(("base", "0")))
    assert found == pytest.approx({("base", "1"): 0.1, ("better", "0"): 0.2, ("better", "1"): 0.4})


def test_arms_are_tested_at_the_first_dose_of_a_reference_that_has_not_theirs(write):
    runs = [rows_of(arm, 0, shifted(BASE, by), dose=dose) for arm, dose, by in (
        ("scratch", "0", 0), ("better", "300", 0.2), ("better", "1000", 0.3)
    )]  # fmt: skip
    table = summarize_rows(load_rows(write(*runs)), "scratch")
    found = {line["dose"]: line["median_difference"] for line in table.to_dict("records") if line["arm"] == "better"}
    assert found == pytest.approx({"300": 0.2, "1000": 0.3})


def test_iou_follows_from_the_dice_of_every_class(write):
    run = [row for metric, by in (("dsc_1", 0.0), ("dsc_2", 0.2), ("dsc_rarest", 0.3), ("dsc_best_pca", 0.1))
           for row in rows_of("a", 0, shifted(BASE, by), metric=metric)]  # fmt: skip
    rows = load_rows(write(run))
    table = summarize_rows(with_ious(rows), "a")
    assert set(table["metric"]) == {"dsc_1", "dsc_2", "dsc_rarest", "dsc_best_pca", "iou_1", "iou_2", "iou"}
    ious = [[dice / (2 - dice) for dice in shifted(BASE, by)] for by in (0.0, 0.2)]
    assert line_of(table, metric="iou_2")["mean"] == pytest.approx(sum(ious[1]) / 6)
    assert line_of(table, metric="iou")["mean"] == pytest.approx((sum(ious[0]) + sum(ious[1])) / 12)
    assert line_of(table, metric="iou")["whole"] == pytest.approx((0.49 / 1.51 + 0.69 / 1.31) / 2)
    alone = rows[rows["metric"] == "dsc_rarest"]
    assert with_ious(alone).equals(alone)


def test_folds_have_a_table_where_asked_for(write, tmp_path):
    runs = [
        rows_of(arm, seed, shifted(BASE, by + 0.02 * seed), fold=fold)
        for arm, by in (("a", 0), ("b", 0.1)) for fold in ("0", "1") for seed in (0, 1) if (arm, fold) != ("b", "1")
    ]  # fmt: skip
    write_report(write(*runs), by_fold=True)
    text = (tmp_path / "trial" / "tables.md").read_text()
    assert text.endswith(
        "\n\n**heads**, `dsc` of the whole test set of every fold:\n\n| labeled | arm | fold 0 | fold 1 |\n"
        "| --- | --- | --- | --- |\n| 0.1 | a | 0.500 | 0.500 |\n| 0.1 | b | 0.600 |  |\n"
    )
    write_report(write(*runs))
    assert "fold 0" not in (tmp_path / "trial" / "tables.md").read_text()


def test_measures_of_the_whole_test_set_have_no_patients(write):
    run = [row for row in rows_of("a", 0, BASE, metric="ap") if not row["case"]]
    (line,) = summarize_rows(load_rows(write(run, [row | {"seed": "1", "value": "0.7"} for row in run])), "a").to_dict(
        "records"
    )
    assert line["whole"] == pytest.approx((0.49 + 0.7) / 2)
    assert (line["n"], line["runs"]) == (0, 2)
    assert math.isnan(line["mean"])


def test_report_is_made_by_one_call(write, tmp_path, read_picture):
    def run(arm, dice, labeled):
        return [*rows_of(arm, 0, dice, labeled=labeled), *rows_of(arm, 0, dice, labeled=labeled, metric="dsc_1")]

    file = write(*(run(arm, dice, labeled) for labeled in "12" for arm, dice in (("base", BASE), ("better", BETTER))))
    write_report(file)
    folder = tmp_path / "trial"
    assert (folder / "tables.md").read_text().splitlines() == [
        "**heads**, `dsc`:",
        "",
        "| labeled | arm | mean of patients [95 %] | whole test set | patients | runs "
        "| median difference to base [95 %] | p (Holm) | p (t-test) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| 1 | base | 0.550 [0.523, 0.577] | 0.49 | 6 | 1 |  |  |  |",
        "| 1 | better | 0.640 [0.613, 0.670] | 0.6 | 6 | 1 | +0.095 [+0.055, +0.120] | 0.0625 | 0.00085 |",
        "| 2 | base | 0.550 [0.523, 0.577] | 0.49 | 6 | 1 |  |  |  |",
        "| 2 | better | 0.640 [0.613, 0.670] | 0.6 | 6 | 1 | +0.095 [+0.055, +0.120] | 0.0625 | 0.00085 |",
    ]
    with open(folder / "summary.csv", newline="") as table:
        assert [row["metric"] for row in csv.DictReader(table)] == [*["dsc", "dsc_1"] * 4, *["iou_1"] * 4, *["iou"] * 4]
    for name in ("per_class_heads_1.png", "per_class_heads_2.png", "curve_labeled_heads.png"):
        read_picture(folder / name)
    assert not (folder / "curve_dose_heads.png").exists()
    write_report(file, tmp_path / "other", reference="better", metrics="dsc_1")
    text = (tmp_path / "other" / "tables.md").read_text()
    assert "`dsc_1`" in text
    assert "difference to better" in text


def test_classes_alone_have_bars(write, monkeypatch):
    drawn = []
    monkeypatch.setattr(report, "draw_bars", lambda names, *_, **__: drawn.append(names))
    write_report(write(*(rows_of("a", 0, BASE, metric=name) for name in ("dsc", "dsc_1", "dsc_liver", "dsc_rarest"))))
    assert drawn == [["1", "liver"]]


def test_dose_has_a_curve_and_a_column(write, tmp_path, read_picture):
    write_report(write(*(rows_of("a", 0, shifted(BASE, float(dose)), dose=dose, labeled="") for dose in ("0", "0.25"))))
    read_picture(tmp_path / "trial" / "curve_dose_heads.png")
    assert "| share | arm |" in (tmp_path / "trial" / "tables.md").read_text()


def test_setting_whose_values_are_words_has_a_table_alone(write, tmp_path):
    write_report(write(*(rows_of("a", 0, BASE, dose=dose, labeled="") for dose in ("cutmix", "classmix"))))
    assert "| cutmix | a |" in (tmp_path / "trial" / "tables.md").read_text()
    assert not (tmp_path / "trial" / "curve_dose_heads.png").exists()


@pytest.mark.parametrize(("options", "xlabel", "places"), [
    ({}, "share", [0.0, 0.25]),
    ({"over": "ratio", "mark": 0.65}, "ratio", [0.5, 1.0]),
])  # fmt: skip
def test_dose_stands_at_its_value_or_at_what_it_led_to(write, monkeypatch, options, xlabel, places):
    drawn = []
    monkeypatch.setattr(report, "draw_learning_curves", lambda panels, path, **said: drawn.append((panels, said)))
    runs = [
        rows_of("a", 0, [value] * 6, dose=dose, metric=metric, labeled="")
        for dose, ratio in (("0", 1.01), ("0.25", 0.51)) for metric, value in (("dsc", 0.5), ("ratio", ratio))
    ]  # fmt: skip
    # The ratio is measured of a whole training set, so it has no patients.
    write_report(write(*(rows[:1] if rows[0]["metric"] == "ratio" else rows for rows in runs)), **options)
    ((panels, said),) = drawn
    assert [point[0] for point in panels["dsc"]["a"]] == pytest.approx(places)
    assert [point[1:] for point in panels["dsc"]["a"]] == [pytest.approx((0.5, 0.5, 0.5))] * 2
    assert said == {"xlabel": xlabel, "mark": options.get("mark")}


def test_what_a_report_cannot_be_made_of_is_named(write, tmp_path):
    with pytest.raises(MissingDataError, match=r"no rows at .*none.csv; give the CSV that an experiment wrote"):
        write_report(tmp_path / "none.csv")
    with pytest.raises(MissingDataError, match=r"trial.csv has no rows; give the CSV"):
        write_report(write())
    (tmp_path / "short.csv").write_text("experiment,arm\nx,y\n")
    with pytest.raises(MissingDataError, match="has no column 'dataset'"):
        write_report(tmp_path / "short.csv")
    file = write(rows_of("a", 0, BASE))
    with pytest.raises(ConfigError, match="reference is 'b'; accepted are the arms a"):
        write_report(file, reference="b")
    with pytest.raises(ConfigError, match="metrics names 'ap'; accepted are dsc"):
        write_report(file, metrics="ap")
    file = write(
        rows_of("a", 0, BASE),
        rows_of("a", 0, BASE, dataset="hearts", metric="ap"),
        rows_of("a", 0, BASE, dataset="hearts"),
    )
    with pytest.raises(ConfigError, match=r"over names 'ap'; accepted are dsc$"):
        write_report(file, over="ap")
