import json

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import MissingDataError
from common.ood_mining import BaselineComparison
from common.ood_mining.comparison import segment_cases
from common.ood_mining.export import write_patch


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


def compare(labeled, tmp_path, baseline, **options):
    cases, load, _ = labeled
    files = [str(tmp_path / name) if name else None for name in ("right.pt", baseline)]
    settings = (cases, load, lambda x, net: {"logits": net(x)}, torch.device("cpu"), str(tmp_path / "out"))
    return BaselineComparison(Brightness(), *files, *settings, **options).run()


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


@pytest.mark.parametrize(("pictures", "expected"), [(2, "cb"), (9, "cbad")])
def test_pictures_are_of_the_cases_with_the_largest_difference(labeled, tmp_path, monkeypatch, pictures, expected):
    _, load, images = labeled
    # Only pixels between the two thresholds are called differently.
    images.update({name: torch.full((1, 6, 8), 0.1) for name in "abcd"})
    for name, pixels in {"b": 3, "c": 7}.items():
        images[name][0, 0, :pixels] = 0.4
    cases = [{"image": name, "label": name, "case": name} for name in "abcd"]
    drawn = []
    monkeypatch.setattr("common.ood_mining.comparison.draw_side_by_side", lambda rows, *_: drawn.extend(rows))
    compare((cases, load, images), tmp_path, "bright.pt", pictures=pictures)
    assert "".join(name for name, _, _ in drawn) == expected


def test_without_a_baseline_nothing_is_compared(labeled, tmp_path):
    assert compare(labeled, tmp_path, None) == {}
    assert not (tmp_path / "out").exists()


def test_comparison_needs_labels(labeled, tmp_path):
    cases = [{key: value for key, value in case.items() if key != "label"} for case in labeled[0]]
    with pytest.raises(MissingDataError, match="no case has a label to compare by"):
        compare((cases, *labeled[1:]), tmp_path, "bright.pt")


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
