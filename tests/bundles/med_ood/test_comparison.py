"""What ``med_ood`` promises of its comparisons: with its baseline, over folds, of variants."""

import numpy as np
import pytest

from tests.bundles.med_ood.cells import BUNDLE, FEW, SIZES, draw


@pytest.fixture(scope="module")
def evaluated(trained, pictures, run_config, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluated")
    run_config(
        BUNDLE, "evaluate.json", pictures=True, dataset_dir=pictures, output_dir=output, model_dir=trained / "m",
        baseline_file=trained / "baseline" / "model.pt", roi_size=[32, 32], norm="instance",
    )  # fmt: skip
    return output


class TestComparison:
    def test_test_set_stands_beside_the_constant_prediction(self, evaluated, read_json):
        report = read_json(evaluated / "metrics.json")["test_set"]
        constant = report["all_background"]
        shares = [float((draw(index, size)[1] == 0).mean()) for index, size in enumerate(SIZES)]
        assert constant["dsc_pooled"] == pytest.approx(np.mean(shares))
        assert constant["iou_pooled"] == pytest.approx(np.mean([b / (2 - b) for b in shares]))
        assert constant["miou_foreground"] == 0
        assert report["per_class"].keys() == {"1", "2"}
        assert report["per_class"]["2"]["iou"] is None, "absent classes are left out"
        assert report["miou_foreground"] == report["per_class"]["1"]["iou"]
        assert sum(report["confusions"][key] for key in ("foreground", "background")) == sum(a * b for a, b in SIZES)

    def test_baseline_is_compared_on_the_same_pictures(self, evaluated, read_json):
        comparison, own = read_json(evaluated / "comparison.json"), read_json(evaluated / "metrics.json")["test_set"]
        assert comparison["Med-OoD"]["iou_pooled"] == pytest.approx(own["iou_pooled"])
        assert comparison["Med-OoD"]["confusions"] == own["confusions"]
        assert comparison["baseline"]["images"] == len(SIZES)
        assert comparison["iou_pooled_signed_rank"]["n"] == len(SIZES)
        for name in ("per_class.png", "side_by_side.png"):
            assert (evaluated / name).read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def experiment(run_config, pictures, tmp_path_factory):
    """Two arms on a fold, which share baseline and scores."""
    output = tmp_path_factory.mktemp("experiment")
    run_config(
        BUNDLE, "experiment.json", dataset_dir=pictures, output_dir=output, seeds=[0], num_folds=2,
        one_fold_per_seed=True,
        arms={"baseline": [{"ood_fraction": 0.0}], "all": [{"ood_fraction": 1.0}]},
        settings=FEW | {"distance": "nearest"},
    )  # fmt: skip
    return output


class TestExperiment:
    def test_every_picture_of_the_fold_is_tested_once_for_each_arm(self, experiment, read_table, read_json):
        rows = read_table(experiment / "negatives.csv")
        (split,) = {tuple(read_json(file)["test"]["tiles"]) for file in experiment.rglob("split.json")}
        for arm in ("baseline", "all"):
            tested = [row["case"] for row in rows if (row["arm"], row["metric"]) == (arm, "dsc") and row["case"]]
            assert sorted(tested) == sorted(split)
            assert len(split) == len(SIZES) / 2
        assert {row["iterations"] for row in rows} == {str(FEW["samples_per_epoch"] // FEW["batch_size"])}

    def test_baseline_is_trained_and_candidates_are_scored_once(self, experiment):
        logs = [file.read_text() for file in experiment.rglob("log.txt")]
        assert len(logs) == 2
        assert sum(log.count("stage baseline: starts") for log in logs) == 1
        assert sum(log.count("stage mine: starts") for log in logs) == 1

    def test_what_was_selected_is_among_the_rows(self, experiment, read_table):
        found = {}
        for row in read_table(experiment / "negatives.csv"):
            found.setdefault((row["arm"], row["metric"]), []).append(float(row["value"]))
        assert found["baseline", "selected"] == [0]
        assert found["all", "selected"] == found["all", "confusing"] == found["baseline", "confusing"]
        assert (experiment / "report" / "tables.md").is_file()
