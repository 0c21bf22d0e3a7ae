import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import ConfigError, MissingDataError
from common.experiments.mining_grid import Experiment, Run
from common.experiments.mining_report import BASELINE, CONSTANT, Outcome, tabulate, write_report
from common.metrics.confusion import all_background, describe_matrices
from common.ood_mining import BaselineComparison
from common.ood_mining.comparison import flatten_measures, segment_cases, summarize_measures
from common.ood_mining.export import write_patch


def test_measures_are_flattened_to_their_paths():
    report = {"a": 1, "b": {"c": None, "d": {"e": 0.5}}}
    flat = flatten_measures(report)
    assert flat.keys() == {"a", "b/c", "b/d/e"}
    assert (flat["a"], flat["b/d/e"]) == (1, 0.5)
    assert math.isnan(flat["b/c"])


def test_runs_without_a_measure_are_left_out_of_its_mean():
    summary = summarize_measures([{"a": 1.0, "b": math.nan}, {"a": 3.0}, {"a": 5.0, "b": 2.0}])
    assert (summary["a"]["mean"], summary["a"]["n"]) == (3, 3)
    assert summary["a"]["std"] == pytest.approx(np.std([1, 3, 5]))
    assert (summary["b"]["mean"], summary["b"]["std"], summary["b"]["n"]) == (2, 0, 1)
    assert len(summary["b"]["values"]) == 3


class Brightness(nn.Module):
    """Calls foreground what is brighter than its threshold."""

    def __init__(self, threshold=0.5):
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, image):
        return torch.cat([self.threshold.expand_as(image[:, :1]), image[:, :1]], dim=1)


@pytest.fixture
def labeled(tmp_path):
    """Three cases in memory, one of them not in-distribution, and what loads them."""
    rng = np.random.default_rng(0)
    images = {name: torch.from_numpy(rng.random((1, 6, 8), dtype=np.float32)) for name in "abc"}
    cases = [{"image": name, "label": name, "case": name, "in_distribution": name != "c"} for name in "abc"]

    def load(case):
        image = images[case["image"]]
        return {"image": image, "label": (image > 0.6).float()}

    torch.save(Brightness(0.6).state_dict(), tmp_path / "right.pt")
    torch.save(Brightness(0.2).state_dict(), tmp_path / "bright.pt")
    return cases, load, images


def test_cases_are_segmented_with_the_given_weights(labeled, tmp_path):
    cases, load, images = labeled
    unlabeled = {"image": "a", "case": "none"}
    found = list(
        segment_cases(
            Brightness(), tmp_path / "bright.pt", [*cases, unlabeled], load, lambda x, net: net(x), torch.device("cpu")
        )
    )
    assert [case.name for case in found] == ["a", "b", "c"]
    for case in found:
        image = images[case.name]
        assert torch.equal(case.predicted, (image > 0.2).long())
        assert torch.equal(case.truth, (image > 0.6).long())
        assert case.matrix[0, 1] == int(((image > 0.2) & (image <= 0.6)).sum())


def compare(labeled, tmp_path, baseline):
    cases, load, _ = labeled
    files = [str(tmp_path / name) if name else None for name in ("right.pt", baseline)]
    return BaselineComparison(
        Brightness(), *files, cases, load, lambda x, net: {"logits": net(x)}, torch.device("cpu"), str(tmp_path / "out")
    ).run()


def test_baseline_and_combined_weights_are_measured_on_known_cases(labeled, tmp_path, read_picture):
    report = compare(labeled, tmp_path, "bright.pt")
    assert report["Med-OoD"]["iou_pooled"] == 1
    assert report["baseline"]["iou_pooled"] < 1
    assert report["baseline"]["images"] == 2, "strange cases are passed over"
    assert report["baseline"]["confusions"]["background_as_foreground"] > 0
    assert report["iou_pooled_signed_rank"]["difference"] > 0
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["Med-OoD"]["iou_pooled"] == 1
    for name in ("per_class.png", "side_by_side.png"):
        read_picture(tmp_path / "out" / name)


def test_without_a_baseline_nothing_is_compared(labeled, tmp_path):
    assert compare(labeled, tmp_path, None) == {}
    assert not (tmp_path / "out").exists()


def test_comparison_needs_labels(labeled, tmp_path):
    cases = [{key: value for key, value in case.items() if key != "label"} for case in labeled[0]]
    with pytest.raises(MissingDataError, match="no case has a label to compare by"):
        compare((cases, *labeled[1:]), tmp_path, "bright.pt")


class TestRuns:
    def test_runs_share_what_their_options_leave_equal(self, tmp_path):
        chosen, everything, mean, other = (
            Run(name, 0, 1, options)
            for name, options in (
                ("chosen", {}),
                ("all", {"ood_fraction": 1.0}),
                ("mean", {"fill": "mean"}),
                ("per class", {"reduction": "per_class"}),
            )
        )
        assert len({run.folder(tmp_path) for run in (chosen, everything, mean, other)}) == 4
        assert chosen.baseline_dir(tmp_path) == everything.baseline_dir(tmp_path) == mean.baseline_dir(tmp_path)
        assert chosen.candidates_dir(tmp_path) == everything.candidates_dir(tmp_path) != mean.candidates_dir(tmp_path)
        assert other.baseline_dir(tmp_path) != chosen.baseline_dir(tmp_path)
        assert other.baseline_dir(tmp_path).name == "fold_0_seed_1_reduction_per_class"

    @pytest.mark.parametrize("variants", [{}, {"baseline": {}}, {"all background": {}}])
    def test_names_that_come_by_themselves_are_refused(self, variants):
        with pytest.raises(ConfigError, match="come by themselves: choose other names"):
            Experiment("bundle", "out", {}, variants)


def outcomes():
    """Two folds: a baseline, a variant that is better by one pixel in each, and the constant prediction."""
    matrices = [np.array([[80, 4], [6, 10]]), np.array([[70, 9], [1, 20]])]
    better = [matrix + np.array([[1, -1], [0, 0]]) for matrix in matrices]
    made = []
    for fold, (base, med) in enumerate(zip(matrices, better, strict=True)):
        place = (fold, 0)
        made += [
            Outcome(CONSTANT, place, [all_background(base)]),
            Outcome(BASELINE, place, [base], {"pnr": 0.9, "selected": 0}),
            Outcome("chosen", place, [med], {"pnr": 0.6 + fold / 10, "selected": 7}, BASELINE),
        ]
    return made, matrices, better


def test_table_means_over_folds_and_compares_pairs():
    made, matrices, better = outcomes()
    table = tabulate([*made, *made[:2]])
    assert list(table) == [CONSTANT, BASELINE, "chosen"]
    for name, found in ((BASELINE, matrices), ("chosen", better)):
        ious = [describe_matrices([matrix])["iou_pooled"] for matrix in found]
        assert table[name]["iou_pooled"]["mean"] == pytest.approx(np.mean(ious))
        assert table[name]["iou_pooled"]["values"] == pytest.approx(ious)
        assert table[name]["confusion_matrix"] == sum(found).tolist()
        assert table[name]["runs"] == [[0, 0], [1, 0]]
    assert table["chosen"]["pnr"]["mean"] == pytest.approx(0.65)
    against = table["chosen"]["against_baseline"]["iou_pooled"]
    assert against["n"] == 2
    assert against["difference"] == pytest.approx(
        table["chosen"]["iou_pooled"]["mean"] - table[BASELINE]["iou_pooled"]["mean"]
    )
    assert "against_baseline" not in table[BASELINE]


def test_report_is_written_as_table_and_pictures(tmp_path, read_picture):
    write_report({"table": tabulate(outcomes()[0]), "swept": False}, tmp_path)
    lines = (tmp_path / "experiment.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["variant", CONSTANT, BASELINE, "chosen"]
    assert "pnr mean" in lines[0]
    assert json.loads((tmp_path / "experiment.json").read_text())["table"]["chosen"]["selected"]["mean"] == 7
    for name in ("per_class.png", "miou_over_pnr.png"):
        read_picture(tmp_path / name)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_patch_is_written_as_picture(tmp_path, channels):
    from PIL import Image

    image = torch.rand(channels, 5, 4)
    with Image.open(write_patch(image, tmp_path / "x")) as picture:
        assert picture.size == (5, 4)
        pixels = np.asarray(picture, dtype=float) / 255
    expected = image.permute(2, 1, 0).numpy() if channels == 3 else image[0].T.numpy()
    np.testing.assert_allclose(pixels, expected, atol=1 / 255)


def test_patch_of_a_volume_is_written_as_nifti(tmp_path):
    import nibabel as nib

    image = torch.rand(1, 3, 4, 5)
    file = write_patch(image, tmp_path / "x")
    np.testing.assert_array_equal(nib.load(file).get_fdata(), image[0].double().numpy())
