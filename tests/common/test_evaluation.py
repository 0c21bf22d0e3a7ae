import csv
import json
import math
from types import SimpleNamespace
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from common.engine.evaluation import (
    UNDEFINED,
    CaseMean,
    Evaluation,
    case_mean,
    quality_report,
    rank_correlation,
    segmentation_report,
)
from common.engine.evaluation_table import distance_unit_of, result_lines
from common.errors import CasesFailedError
from common.handlers import CaseRecorder
from common.metrics.detection import detection_report
from common.metrics.segmentation import METRICS
from common.metrics.statistics import summarize
from common.spectral import SignatureBank

NAN = math.nan
BANK = SignatureBank.fit(np.eye(4)[:3] + np.arange(12).reshape(3, 4) / 10)


def measured(*values, channels=1):
    """Metrics of a case: the given values for the metrics in order, in every channel a little more."""
    return {str(k + 1): dict(zip(METRICS, [v + 0.1 * k for v in values], strict=True)) for k in range(channels)}


def verdict(oodm):
    return {"oodm": oodm, "threshold": BANK.threshold, "is_ood": oodm > BANK.threshold, "reason": None}


def test_summary_is_that_of_the_values_that_exist():
    assert summarize([1.0, NAN, 3.0]) == {"mean": 2.0, "std": 1.0, "n": 2}
    assert summarize([0.25]) == {"mean": 0.25, "std": 0.0, "n": 1}


@pytest.mark.parametrize("values", [[], [NAN, NAN]])
def test_summary_of_nothing_has_no_mean(values):
    assert summarize(values) == {"mean": None, "std": None, "n": 0}


def test_case_counts_once_however_many_channels_it_has():
    row = {"metrics": {"1": {"dsc": 0.5}, "2": {"dsc": NAN}, "3": {"dsc": 0.7}}}
    assert case_mean(row, "dsc") == pytest.approx(0.6)
    assert math.isnan(case_mean({"metrics": {"1": {"dsc": NAN}}}, "dsc"))
    assert math.isnan(case_mean({}, "dsc"))


def test_class_of_one_data_set_is_averaged_over_its_cases_alone():
    rows = [
        {"case": "a", "metrics": measured(0.5, 2.0, 1.0, 0.1, 0.2, channels=2)},
        {"case": "b", "metrics": measured(0.7, 1.0, 1.0, 0.3, 0.4, channels=1)},
    ]
    per_class = segmentation_report(rows)["dsc"]["per_class"]
    assert per_class["1"] == {"mean": pytest.approx(0.6), "std": pytest.approx(0.1), "n": 2}
    assert per_class["2"] == {"mean": pytest.approx(0.6), "std": 0.0, "n": 1}


def test_segmentation_is_reported_per_class_group_and_case():
    rows = [
        {"case": "a", "group": "x", "metrics": measured(0.5, 2.0, 1.0, 0.1, 0.2, channels=2)},
        {"case": "b", "group": "x", "metrics": measured(0.7, NAN, NAN, 0.3, 0.4, channels=2)},
        {"case": "c", "group": "y", "metrics": measured(NAN, NAN, NAN, NAN, NAN, channels=2)},
        {"case": "d", "group": "y"},
        {"case": "e", "group": "y", "error": "broken"},
    ]
    report = segmentation_report(rows)
    assert list(report) == list(METRICS)
    dsc = report["dsc"]
    assert (dsc["mean"], dsc["std"], dsc["n"]) == (pytest.approx(0.65), pytest.approx(0.1), 2)
    assert dsc["per_class"] == {
        "1": {"mean": pytest.approx(0.6), "std": pytest.approx(0.1), "n": 2},
        "2": {"mean": pytest.approx(0.7), "std": pytest.approx(0.1), "n": 2},
    }
    assert dsc["per_group"]["x"] == {key: dsc[key] for key in ("mean", "std", "n")}
    assert dsc["per_group"]["y"] == {"mean": None, "std": None, "n": 0}
    assert dsc["per_case"] == {"a": pytest.approx(0.55), "b": pytest.approx(0.75), "c": None}
    assert (report["hd95"]["mean"], report["hd95"]["n"]) == (pytest.approx(2.05), 1)
    assert dsc["undefined"] == {"c": UNDEFINED}
    assert report["hd95"]["undefined"] == {"b": UNDEFINED, "c": UNDEFINED}
    for figures in report.values():
        missing = [name for name, value in figures["per_case"].items() if value is None]
        assert list(figures["undefined"]) == missing
    assert "ground truth is empty" in UNDEFINED


@pytest.mark.parametrize("rows", [[], [{"case": "a"}, {"case": "b", "error": "broken"}]])
def test_segmentation_without_labels_has_no_figures(rows):
    assert segmentation_report(rows) == {}


def expecting(dice, low, true):
    """A row with a predicted Dice and a true one."""
    return {
        "result": verdict(0.1) | {"expected_dice": dice, "expected_dice_low": low},
        "metrics": measured(true, 1, 1, 1, 1),
    }


def test_predicted_dice_is_compared_with_the_true_one():
    rows = [expecting(0.8, 0.6, 0.9), expecting(0.8, 0.6, 0.6), expecting(0.8, 0.6, 0.5), expecting(0.8, 0.6, NAN)]
    others = [{"result": verdict(0.5), "metrics": measured(0.5, 1, 1, 1, 1)}, {"error": "broken"}, {"result": None}]
    report = quality_report(rows + others)
    assert report == {"coverage": pytest.approx(2 / 3), "mean_absolute_error": pytest.approx(0.2), "n": 3}
    assert quality_report(others) == {"coverage": None, "mean_absolute_error": None, "n": 0}
    ranked = [expecting(dice, 0.0, true) for dice, true in ((0.1, 0.2), (0.5, 0.3), (0.9, 0.4), (0.7, 0.6))]
    assert rank_correlation(ranked + others, "expected_dice") == {"rho": pytest.approx(0.8), "p": ANY, "n": 4}


def test_rank_correlation_is_that_of_the_ranks():
    rng = np.random.default_rng(0)
    oodm, dice = rng.random(9), np.round(rng.random(9), 1)
    rows = [{"result": verdict(o), "metrics": measured(d, 1, 1, 1, 1)} for o, d in zip(oodm, dice, strict=True)]
    others = [{"result": verdict(0.5)}, {"metrics": rows[0]["metrics"]}, {"error": "broken"}, {"result": None}]
    unmeasured = [{"result": verdict(0.5), "metrics": measured(NAN, 1, 1, 1, 1)}]
    correlation = rank_correlation(rows + others + unmeasured)
    assert correlation["rho"] == pytest.approx(np.corrcoef(rankdata(oodm), rankdata(dice))[0, 1])
    assert 0 < correlation["p"] < 1
    assert correlation["n"] == 9


@pytest.mark.parametrize("pairs", [[], [(1, 0.5)], [(1, 0.5), (1, 0.6)], [(1, 0.5), (2, 0.5)]])
def test_rank_correlation_needs_two_different_values(pairs):
    rows = [{"result": verdict(o), "metrics": measured(d, 1, 1, 1, 1)} for o, d in pairs]
    assert rank_correlation(rows) == {"rho": None, "p": None, "n": len(pairs)}


def test_case_mean_metric_is_the_mean_of_the_cases_with_a_value():
    metric = CaseMean("hd95")
    assert math.isnan(metric.compute())
    metric.update([{"metrics": measured(0, 2.0, 0, 0, 0)}, {"pred": 1}])
    metric.update([{"metrics": measured(0, NAN, 0, 0, 0)}])
    metric.update([{"metrics": measured(0, 5.0, 0, 0, 0, channels=3), "in_distribution": True}])
    metric.update([{"metrics": measured(0, 50.0, 0, 0, 0), "in_distribution": False}])
    assert metric.compute() == pytest.approx((2.0 + 5.1) / 2)
    metric.reset()
    assert math.isnan(metric.compute())
    assert CaseMean().name == "dsc"


def make_results(failing=False, strange=True):
    """Cases as an evaluator reports them: known ones of two groups, strange ones of two, and perhaps a failed one."""
    rng = np.random.default_rng(0)
    plan = [("a", True, 0.1, 4), ("b", True, 0.2, 3)]
    plan += [("far", False, 5.0, 3), ("near", False, 0.25, 4)] if strange else []
    cases = []
    for group, known, scale, number in plan:
        for index in range(number):
            values = [*rng.uniform(0.1, 0.9, 5)]
            output = {
                "metrics": measured(*values, channels=2),
                "overlaps": {"1": (1, 2, 3), "2": (0, 2, 0)},
                "result": verdict(float(scale * rng.uniform(0.5, 1.5))),
                "signature": torch.from_numpy(rng.random(4)),
                "calibration_bins": torch.stack([torch.full((10,), n) for n in (4.0, 2.0, 1.0)]),
            }
            cases.append(({"case": f"{group}{index}", "group": group, "in_distribution": known}, output))
    del cases[1][1]["metrics"]
    cases[2][1]["result"] = {"oodm": None, "threshold": None, "is_ood": None, "reason": "no bank"}
    if failing:
        cases.insert(3, ({"case": "bad", "group": "b", "in_distribution": True}, {"error": "bad is broken"}))
    return cases


@pytest.fixture
def evaluate(tmp_path, run_cases, monkeypatch):
    """Runs an evaluation over given results, in place of a network; gives its report and its rows."""

    def run(results, draw=True):
        recorder = CaseRecorder()
        evaluator = SimpleNamespace(run=lambda: run_cases(recorder, results))
        preflight = SimpleNamespace(run=lambda: BANK)
        if not draw:
            monkeypatch.setattr(Evaluation, "_draw", lambda *_: None)
        return Evaluation(preflight, evaluator, recorder, str(tmp_path / "out")).run(), recorder.rows

    return run


def test_metrics_file_can_be_computed_again_from_the_rows(evaluate, tmp_path):
    report, rows = evaluate(make_results(), draw=False)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == report
    known = [row for row in rows if row["in_distribution"]]
    dice = [np.mean([c["dsc"] for c in row["metrics"].values()]) for row in known if "metrics" in row]
    assert report["segmentation"]["dsc"]["mean"] == pytest.approx(np.mean(dice))
    assert report["segmentation"]["dsc"]["n"] == 6
    assert report["segmentation_out_of_distribution"]["dsc"]["n"] == 7
    scores = {g: [r["result"]["oodm"] for r in rows if r["group"] == g] for g in ("a", "b", "far", "near")}
    negatives = [score for score in scores["a"] + scores["b"] if score is not None]
    strange = {group: scores[group] for group in ("far", "near")}
    assert report["detection"] == detection_report(negatives, strange, BANK.threshold)
    assert report["detection"]["far"]["auc"] == 1.0
    assert report["detection"]["worst"]["folder"] == "near"
    assert report["false_alarms"] == {"share": np.mean([s > BANK.threshold for s in negatives]), "n": 6}
    labeled = [r for r in rows if "metrics" in r and r["result"]["oodm"] is not None]
    assert report["rank_correlation_oodm_dsc"] == rank_correlation(labeled)
    assert report["rank_correlation_oodm_dsc"]["n"] == 12
    assert report["expected_quality"]["in_distribution"] == {"coverage": None, "mean_absolute_error": None, "n": 0}
    assert report["failed"] == []


def test_every_case_and_channel_has_its_line(evaluate, tmp_path):
    _, rows = evaluate(make_results(), draw=False)
    with open(tmp_path / "out" / "cases.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    names = ["case", "group", "in_distribution", "channel", *METRICS, "oodm", "threshold", "is_ood", "error"]
    assert list(lines[0]) == [*names, "p_value", "expected_dice", "expected_dice_low", "reasons"]
    assert [(line["case"], line["channel"]) for line in lines] == [
        (row["case"], channel) for row in rows for channel in row.get("metrics", [""])
    ]
    first = rows[0]
    for line, (_, metrics) in zip(lines, first["metrics"].items(), strict=False):
        assert {name: float(line[name]) for name in METRICS} == metrics
        assert float(line["oodm"]) == first["result"]["oodm"]
        assert line["is_ood"] == str(first["result"]["is_ood"])
    unlabeled = next(line for line in lines if line["case"] == "a1")
    assert (unlabeled["dsc"], unlabeled["channel"], unlabeled["error"]) == ("", "", "")


def test_figures_are_drawn(evaluate, tmp_path, read_picture):
    evaluate(make_results())
    for name in ("signatures", "oodm", "roc", "reliability"):
        path = tmp_path / "out" / f"{name}.png"
        read_picture(path)
        assert path.stat().st_size > 1000


def test_without_strange_scans_there_is_no_detection(evaluate, tmp_path):
    report, _ = evaluate(make_results(strange=False))
    assert report["detection"] == {}
    assert report["segmentation_out_of_distribution"] == {}
    names = ["cases.csv", "metrics.json", "oodm.png", "reliability.png", "report.html", "signatures.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def test_cases_without_label_and_verdict_still_give_a_report(evaluate, tmp_path):
    report, _ = evaluate([({"case": "a"}, {"pred": 1})])
    assert report["segmentation"] == report["detection"] == {}
    assert report["false_alarms"] == {"share": None, "n": 0}
    names = ["cases.csv", "metrics.json", "report.html", "signatures.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def test_failed_case_ends_the_run_after_everything_is_written(evaluate, tmp_path):
    with pytest.raises(CasesFailedError, match=r"1 of 15 case\(s\) failed.*first: bad is broken.*metrics\.json"):
        evaluate(make_results(failing=True))
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["failed"] == [{"image": "bad", "error": "bad is broken"}]
    assert report["segmentation"]["dsc"]["n"] == 6
    with open(tmp_path / "out" / "cases.csv", newline="", encoding="utf-8") as file:
        (line,) = [line for line in csv.DictReader(file) if line["case"] == "bad"]
    assert (line["error"], line["dsc"], line["oodm"]) == ("bad is broken", "", "")
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".csv", ".png", ".html"}
    assert len(list((tmp_path / "out").iterdir())) == 7


def test_only_failed_cases_still_leave_a_report(evaluate, tmp_path):
    with pytest.raises(CasesFailedError, match=r"1 of 1 case\(s\) failed"):
        evaluate([({"case": "bad"}, {"error": "bad is broken"})])
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["segmentation"] == {}


def test_known_and_strange_folders_of_one_name_both_show_in_the_histogram(evaluate, monkeypatch):
    drawn = {}
    monkeypatch.setattr("common.engine.evaluation.draw_scores", lambda scores, *_: drawn.update(scores))
    described = {True: 0.1, False: 5.0}
    evaluate(
        [
            ({"case": str(k), "group": "imagesTr", "in_distribution": k}, {"result": verdict(described[k])})
            for k in described
        ]
    )
    assert sorted(score for scores in drawn.values() for score in scores) == [0.1, 5.0]


def test_nothing_runs_when_the_bank_belongs_to_other_weights(tmp_path):
    def refuse():
        raise RuntimeError("foreign bank")

    ran = []
    evaluator = SimpleNamespace(run=lambda: ran.append(1))
    with pytest.raises(RuntimeError, match="foreign bank"):
        Evaluation(SimpleNamespace(run=refuse), evaluator, CaseRecorder(), str(tmp_path / "out")).run()
    assert ran == []
    assert list(tmp_path.iterdir()) == []


def test_share_of_voxels_is_a_column_where_it_was_measured(evaluate, tmp_path):
    results = make_results(strange=False)
    for _, output in results:
        if "metrics" in output:
            output["shares"] = dict.fromkeys(output["metrics"], 0.125)
    evaluate(results, draw=False)
    with open(tmp_path / "out" / "cases.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0])[-5:-3] == ["share", "p_value"]
    assert {line["share"] for line in lines} == {"0.125", ""}
    assert all(bool(line["share"]) == bool(line["channel"]) for line in lines)


def figures(mean, std, n):
    return {"mean": mean, "std": std, "n": n}


def test_lines_of_an_evaluation_are_aligned_with_four_digits():
    report = {
        "segmentation": {"dsc": figures(0.92361, 0.0274, 12), "hd95": figures(10.0, 1.5, 12)},
        "test_set": {},
        "detection": {
            "ring": {"auc": 1.0, "fpr": 0.0},
            "worst": {"folder": "ring", "auc": np.float64(0.98612), "fpr": 0.5},
        },
        "false_alarms": {"share": 1 / 6, "n": 12},
    }
    assert result_lines(report, unit="pixels") == [
        "in-distribution    mean      std   n",
        "dsc              0.9236  0.02740  12",
        "hd95 (pixels)     10.00    1.500  12",
        "out-of-distribution     auc     fpr",
        "ring                  1.000   0.000",
        "worst                0.9861  0.5000",
        "false alarms: 2 of 12 in-distribution case(s), a share of 0.1667",
    ]


@pytest.mark.parametrize(
    ("units", "unit"),
    [(["mm", "mm"], "mm"), (["pixels", None], "pixels"), (["pixels", "mm"], "mm or pixels"), ([], "mm")],
)
def test_unit_of_distances_is_that_of_the_cases(units, unit):
    rows = [{"case": "a", **({"unit": given} if given else {})} for given in units]
    assert distance_unit_of(rows) == unit


def test_dice_by_labels_of_other_data_sets_is_called_no_measure_of_quality(evaluate, tmp_path, caplog):
    caplog.set_level("INFO")
    results = make_results()
    evaluate(results, draw=False)
    said = "no measure of quality"
    page = (tmp_path / "out" / "report.html").read_text()
    assert caplog.text.count(said) == page.count(said) == 1
    assert "<td>hd95 (mm)</td>" in page
    for batch, _ in results:
        batch["damage"] = "noise"
    caplog.clear()
    evaluate(results, draw=False)
    assert said not in caplog.text + (tmp_path / "out" / "report.html").read_text()


def test_lines_of_an_evaluation_say_why_there_are_no_figures():
    whole = dict.fromkeys(("iou_pooled", "miou_foreground", "dsc_foreground"), NAN)
    report = {
        "segmentation": {"dsc": figures(None, None, 0)},
        "test_set": whole | {"iou_pooled": 1.0, "all_background": whole | {"iou_pooled": 1.0}},
        "detection": {},
        "false_alarms": {"share": None, "n": 0},
    }
    assert result_lines(report) == [
        "dsc: undefined, since no labeled case has both foreground and a prediction of it",
        "all cases together      found  all background",
        "iou_pooled              1.000           1.000",
        "miou_foreground     undefined       undefined",
        "dsc_foreground      undefined       undefined",
        "the labels of the test set hold no foreground",
    ]
