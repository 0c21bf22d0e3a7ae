"""What ``med_ood`` promises of its comparisons: with its baseline, over folds, of variants."""

import json

import numpy as np
import pytest

from tests.bundles.med_ood.cells import BUNDLE, FEW, SHORT, SIZES, draw


@pytest.fixture(scope="module")
def evaluated(trained, pictures, run_config, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluated")
    run_config(
        BUNDLE, "evaluate.json", dataset_dir=pictures, output_dir=output, model_dir=trained / "m",
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

    def test_folds_are_summarized(self, evaluated, run_config, tmp_path, read_json, read_table):
        other = tmp_path / "other"
        other.mkdir()
        report = read_json(evaluated / "metrics.json")
        report["test_set"]["iou_pooled"] += 0.1
        (other / "metrics.json").write_text(json.dumps(report))
        folds = [str(evaluated), str(other)]
        run_config(BUNDLE, "evaluate.json", "summarize", fold_dirs=folds, output_dir=tmp_path / "folds")
        summary = read_json(tmp_path / "folds" / "folds.json")
        value = read_json(evaluated / "metrics.json")["test_set"]["iou_pooled"]
        assert summary["iou_pooled"]["mean"] == pytest.approx(value + 0.05)
        assert summary["iou_pooled"]["std"] == pytest.approx(0.05)
        assert summary["per_class/2/iou"]["n"] == 0
        assert summary["baseline/iou_pooled"]["n"] == 1
        rows = read_table(tmp_path / "folds" / "folds.csv")
        assert [row["measure"] for row in rows] == list(summary)

    def test_folds_must_have_been_evaluated(self, fail_config, tmp_path):
        for folders, words in (([], "fold_dirs is empty"), ([str(tmp_path)], "holds no metrics.json with a test_set")):
            error = fail_config(BUNDLE, "evaluate.json", "summarize", fold_dirs=folders, output_dir=tmp_path)
            assert words in str(error)

    def test_sweep_has_a_point_for_every_percentage_and_shares_its_baseline(
        self, run_config, pictures, tmp_path, caplog, read_json
    ):
        caplog.set_level("INFO")
        names = ["evaluate.json", "experiment.json"]
        given = {"dataset_dir": pictures, "output_dir": tmp_path, "num_folds": 2, "seeds": [0]} | FEW
        run_config(BUNDLE, names, "sweep", percentages=[0, 1], **given)
        report = read_json(tmp_path / "experiment.json")
        assert list(report["table"]) == ["all background", "baseline", "0 %", "100 %"]
        assert all(figures["runs"] == [[0, 0], [1, 0]] for figures in report["table"].values())
        none, everything = report["table"]["0 %"], report["table"]["100 %"]
        assert none["selected"]["mean"] == 0
        assert none["pnr"]["values"] == report["table"]["baseline"]["pnr"]["values"]
        assert everything["selected"]["values"] == everything["candidates"]["values"]
        # Nothing selected repeats the baseline; the same pictures are tested once in each fold.
        assert none["iou_pooled"]["values"] == report["table"]["baseline"]["iou_pooled"]["values"]
        assert np.sum(none["confusion_matrix"]) == sum(a * b for a, b in SIZES)
        assert none["against_baseline"]["iou_pooled"] == pytest.approx(
            {"n": 2, "first": none["iou_pooled"]["mean"], "second": none["iou_pooled"]["mean"], "difference": 0, "p": 1}
        )
        assert caplog.text.count("stage baseline: starts") == 2
        for name in ("miou_over_pnr.png", "per_class.png"):
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
        run_config(BUNDLE, names, "sweep", percentages=[0, 1], **given)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")} == before

    def test_experiment_compares_a_variant_with_the_baseline_of_its_own_loss(
        self, run_config, pictures, tmp_path, read_json
    ):
        variants = {"chosen": {}, "per class": {"reduction": "per_class", "seeds": [1]}}
        run_config(
            BUNDLE, ["evaluate.json", "experiment.json"], dataset_dir=pictures, output_dir=tmp_path, num_folds=2,
            seeds=[0, 1], variants=variants, **FEW,
        )  # fmt: skip
        table = read_json(tmp_path / "experiment.json")["table"]
        assert table["chosen"]["runs"] == [[0, 0], [0, 1], [1, 0], [1, 1]]
        assert table["per class"]["runs"] == [[0, 1], [1, 1]]
        own = next(name for name in table if name.startswith("baseline") and name != "baseline")
        pair = table["per class"]["against_baseline"]["miou_foreground"]
        assert pair["first"] == pytest.approx(table["per class"]["miou_foreground"]["mean"])
        assert pair["second"] == pytest.approx(table[own]["miou_foreground"]["mean"])

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"variants": {"x": {"fil": "mean"}}}, "variant 'x' sets 'fil', which is no option of train.json; did you"),
            ({"variants": {"x": {"network_pair": "Unet-vgg11_bn"}}}, "variant 'x' sets 'network_pair', which is no"),
            ({"variants": {"x": {"fold": 1}}}, "variant 'x' sets 'fold', which the experiment sets itself"),
            ({"shared_settings": {"max_epoch": 1}}, "shared_settings sets 'max_epoch', which is no option of"),
            ({"overlays": ["none.json"]}, "overlays names 'none.json', but there is no such file in"),
        ],
        ids=str,
    )
    def test_options_that_would_do_nothing_are_refused(self, fail_config, tmp_path, settings, words):
        error = fail_config(BUNDLE, ["evaluate.json", "experiment.json"], output_dir=tmp_path, **settings)
        assert words in str(error)
        assert not list(tmp_path.rglob("*.pt"))

    def test_overlays_reach_the_trainings(self, fail_config, pictures, tmp_path, monkeypatch):
        """Without the package that the networks of this overlay need, whose message tells which one was asked for."""
        from monai.utils import module

        wanted = module.optional_import
        monkeypatch.setattr(
            "monai.utils.optional_import",
            lambda name, *args, **keys: (None, False) if name.startswith("segm") else wanted(name, *args, **keys),
        )
        error = fail_config(
            BUNDLE, ["evaluate.json", "experiment.json"], dataset_dir=pictures, output_dir=tmp_path, num_folds=2,
            seeds=[0], overlays=["encoders.json"], variants={"vgg16": {"network_pair": "Unet-vgg16_bn"}},
            **(SHORT | {"norm": "batch"}),
        )  # fmt: skip
        assert "network 'Unet-vgg16_bn' needs segmentation-models-pytorch" in str(error)

    @pytest.mark.parametrize(("percentages", "words"), [([], "percentages is []"), ([0.5, 2], "from 0 to 1")])
    def test_impossible_percentages_are_named(self, fail_config, tmp_path, percentages, words):
        names = ["evaluate.json", "experiment.json"]
        error = fail_config(BUNDLE, names, "sweep", percentages=percentages, output_dir=tmp_path)
        assert words in str(error)
