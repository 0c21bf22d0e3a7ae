import math
import re

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.testing import assert_close

from common.errors import ConfigError, LabelError
from common.metrics.segmentation import mean_class_dice, measure_segmentation
from common.transforms import (
    ForegroundChannelsd,
    LabelMapd,
    MeasureSegmentationd,
    NormalizeByModalityd,
)

VALUES = torch.tensor([[-3000.0, -1000.0, -500.0], [0.0, 250.0, 4000.0]])[None]
AS_CT = torch.tensor([[0.0, 0.0, 0.25], [0.5, 0.625, 1.0]])[None]
AS_MR = VALUES / VALUES.std(unbiased=False)
TAGGED = MetaTensor(VALUES, meta={"00080060": "CT"})


@pytest.mark.parametrize(
    ("data", "default", "expected"),
    [
        ({"image": VALUES, "modality": "CT"}, "MR", AS_CT),
        ({"image": VALUES, "modality": "MR"}, "CT", AS_MR),
        ({"image": TAGGED}, "MR", AS_CT),
        ({"image": TAGGED, "modality": "MR"}, "CT", AS_MR),
        ({"image": TAGGED, "modality": "US"}, "MR", AS_CT),
        ({"image": VALUES}, "CT", AS_CT),
        ({"image": VALUES}, "MR", AS_MR),
        ({"image": MetaTensor(VALUES, meta={"00080060": "US"})}, "CT", AS_CT),
    ],
)
def test_modality_decides_the_normalization(data, default, expected):
    image = NormalizeByModalityd("image", default)(data)["image"]
    assert_close(torch.as_tensor(image).as_subclass(torch.Tensor), expected)


def test_hounsfield_window_can_be_set():
    normalized = NormalizeByModalityd("image", "CT", (-500, 250))({"image": VALUES})["image"]
    assert_close(normalized, torch.tensor([[0.0, 0.0, 0.0], [2 / 3, 1.0, 1.0]])[None])


def test_normalization_does_not_touch_its_input():
    data = {"image": VALUES.clone(), "modality": "CT"}
    NormalizeByModalityd("image")(data)
    assert_close(data["image"], VALUES)


def test_unknown_modality_is_refused():
    with pytest.raises(ConfigError, match="modality is 'US'; accepted are CT, MR, RGB"):
        NormalizeByModalityd("image", "US")


LABEL = torch.tensor([[0, 1, 2], [3, 2, 0]])[None]


@pytest.mark.parametrize(
    ("task", "out_channels", "channels"),
    [
        ("any", 1, [[[0, 1, 1], [1, 1, 0]]]),
        ("some", 1, [[[0, 0, 1], [1, 1, 0]]]),
        ("any", 3, [LABEL[0] == k for k in range(1, 4)]),
        ("some", 2, [[[0, 0, 0], [1, 0, 0]], [[0, 0, 1], [0, 1, 0]]]),
        ("one", 2, [[[0, 0, 1], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]]]),
        ("any", 4, [LABEL[0] == k for k in range(1, 5)]),
    ],
)
def test_classes_become_channels(task, out_channels, channels):
    transform = ForegroundChannelsd("label", out_channels, {"some": [3, 2], "one": [2]})
    turned = transform({"label": LABEL, "task": task})["label"]
    assert_close(turned, torch.stack([torch.as_tensor(channel) for channel in channels]).to(turned))


@pytest.mark.parametrize("labels", [[1, 2, 3], [3, 2, 1, 7]])
def test_more_classes_named_than_channels_are_refused(labels):
    text = f"foreground_labels {labels} are more than out_channels 2; give each class a channel"
    with pytest.raises(ConfigError, match=re.escape(text)):
        ForegroundChannelsd("label", 2, {"t": labels})({"label": LABEL, "task": "t"})
    assert ForegroundChannelsd("label", 1, {"t": labels})({"label": LABEL, "task": "t"})["label"].shape == (1, 2, 3)


@pytest.mark.parametrize("data", [{"label": LABEL}, {"label": LABEL.float(), "task": "other"}])
def test_more_classes_in_a_label_than_channels_are_refused(data):
    transform = ForegroundChannelsd("label", 2, {"t": [1]})
    with pytest.raises(LabelError, match=r"label holds class 3 but the network has 2 channels; .*foreground_labels"):
        transform(data)
    assert transform(data | {"label": data["label"].clamp(max=2)})["label"].shape == (2, 2, 3)


def test_channels_are_float_and_keep_the_geometry():
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    turned = ForegroundChannelsd("label", 3)({"label": MetaTensor(LABEL.float(), affine=affine)})["label"]
    assert turned.dtype == torch.float32
    assert_close(turned.affine, affine)


def test_case_without_a_label_passes():
    assert ForegroundChannelsd("label", 2)({"case": "x"}) == {"case": "x"}


@pytest.mark.parametrize(
    ("probability", "threshold", "indices"),
    [
        ([[0.4, 0.5, 0.51]], 0.5, [0, 0, 1]),
        ([[0.4, 0.5, 0.51]], 0.45, [0, 1, 1]),
        ([[0.9, 0.2, 0.6, 0.1], [0.8, 0.7, 0.7, 0.2], [0.1, 0.6, 0.8, 0.5]], 0.5, [1, 2, 3, 0]),
    ],
)
def test_most_probable_channel_above_the_threshold_wins(probability, threshold, indices):
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    pred = MetaTensor(torch.tensor(probability)[:, None], affine=affine)
    turned = LabelMapd("pred", threshold)({"pred": pred})["pred"]
    assert turned.dtype == torch.uint8
    assert turned.tolist() == [[indices]]
    assert_close(turned.affine, affine)


def test_channels_and_indices_are_inverse():
    label = torch.randint(0, 4, (1, 4, 5, 3), generator=torch.Generator().manual_seed(0))
    channels = ForegroundChannelsd("x", 3)({"x": label})
    assert LabelMapd("x")(channels)["x"].tolist() == label.tolist()


SPACING = (2.0, 0.5, 3.0)


def box(*bounds, size=(8, 9, 7)):
    label = torch.zeros(size)
    label[tuple(slice(low, high) for low, high in bounds)] = 1
    return label


CUBE = box((2, 4), (2, 4), (2, 4))
EMPTY = torch.zeros_like(CUBE)


def surface_distances(first, second, spacing=SPACING):
    """Distance in mm from every surface voxel of ``first`` to the nearest one of ``second``, by trying them all."""

    def surface(mask):
        padded = np.pad(mask.numpy() > 0, 1)
        eroded = np.logical_and.reduce([np.roll(padded, s, axis) for axis in range(3) for s in (-1, 1)])
        return np.argwhere(padded & ~eroded) * spacing

    ours, theirs = surface(first), surface(second)
    return np.sqrt(((ours[:, None] - theirs) ** 2).sum(axis=-1)).min(axis=1)


def test_metrics_equal_brute_force():
    truth, probability = box((2, 5), (2, 6), (2, 5)), 0.8 * box((2, 6), (3, 7), (2, 5)) + 0.1
    metrics, bins = measure_segmentation(probability, truth, SPACING)
    predicted = (probability > 0.5).float()
    there, back = surface_distances(predicted, truth), surface_distances(truth, predicted)
    assert metrics["dsc"] == pytest.approx(2 * float((predicted * truth).sum()) / float(predicted.sum() + truth.sum()))
    assert metrics["hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5)
    assert metrics["assd"] == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-5)
    # The band of ten voxels holds the whole image here: two values of probability, two bins.
    inside, outside = truth[predicted > 0].mean(), truth[predicted == 0].mean()
    gaps, shares = (
        torch.stack([0.9 - inside, outside - 0.1]).abs(),
        torch.stack([predicted.mean(), 1 - predicted.mean()]),
    )
    assert metrics["ece"] == pytest.approx(float((gaps * shares).sum()), abs=1e-6)
    assert metrics["mce"] == pytest.approx(float(gaps.max()), abs=1e-6)
    assert float(bins[0].sum()) == truth.numel()


def test_perfect_segmentation_has_perfect_metrics():
    truth = box((2, 5), (2, 6), (2, 5))
    metrics, _ = measure_segmentation(truth, truth, SPACING)
    assert metrics == {"dsc": 1.0, "hd95": 0.0, "assd": 0.0, "ece": 0.0, "mce": 0.0}


@pytest.mark.parametrize(
    ("probability", "truth", "finite"),
    [
        (CUBE, EMPTY, {}),
        (EMPTY, EMPTY, {}),
        (EMPTY, CUBE, {"dsc": 0.0, "ece": 8 / 504, "mce": 8 / 504}),
    ],
)
def test_metrics_that_do_not_exist_are_nan(probability, truth, finite):
    metrics, _ = measure_segmentation(probability, truth, SPACING)
    for name, value in metrics.items():
        assert math.isnan(value) if name not in finite else value == pytest.approx(finite[name])


def test_every_channel_is_measured_in_the_spacing_of_the_image():
    labels = torch.stack([box((1, 4), (1, 4), (1, 4)), box((4, 7), (4, 7), (3, 6))])
    moved = torch.roll(labels, 1, dims=1)
    affine = torch.diag(torch.tensor([*SPACING, 1.0], dtype=torch.float64))
    data = {"pred": moved, "label": labels, "image": MetaTensor(torch.zeros(1, 8, 9, 7), affine=affine)}
    measured = MeasureSegmentationd("pred")(data)
    assert set(measured["metrics"]) == {"1", "2"}
    assert [measured["metrics"][channel]["hd95"] for channel in "12"] == [2.0, 2.0]
    assert measured["unit"] == "mm"
    expected = sum(measure_segmentation(p, y, SPACING)[1] for p, y in zip(moved, labels, strict=True))
    assert_close(measured["calibration_bins"], expected)


def test_image_without_geometry_is_measured_in_voxels():
    label = box((1, 4), (1, 4), (1, 4))[None]
    data = {"pred": label.roll(1, dims=1), "label": label, "image": torch.zeros(1, 8, 9, 7)}
    measured = MeasureSegmentationd("pred")(data)
    assert (measured["metrics"]["1"]["hd95"], measured["unit"]) == (1.0, "pixels")
    data["image"] = MetaTensor(torch.zeros(1, 8, 9), affine=torch.eye(3), meta={"filename_or_obj": "frame.PNG"})
    data |= {"pred": data["pred"][..., 0], "label": label[..., 0]}
    assert MeasureSegmentationd("pred")(data)["unit"] == "pixels"


def test_unlabeled_case_is_not_measured():
    data = {"pred": CUBE[None], "image": torch.zeros(1, 8, 9, 7), "label": "path"}
    assert MeasureSegmentationd("pred")(data) == data


@pytest.mark.parametrize(
    ("pred", "label", "dice"),
    [
        ([[0, 1, 1, 2]], [[0, 1, 0, 2]], (2 / 3 + 1) / 2),
        ([[1, 1, 0, 0]], [[0, 0, 2, 2]], 0.0),
        ([[0, 0, 0, 0]], [[0, 0, 0, 0]], math.nan),
        ([[1, 1, 0, 0], [1, 0, 0, 0]], [[1, 0, 0, 0], [0, 0, 0, 0]], 2 / 3),
        ([[1, 0, 0, 0], [0, 1, 1, 0]], [[1, 0, 0, 0], [0, 1, 0, 0]], (1 + 2 / 3) / 2),
    ],
)
def test_dice_of_a_case_is_the_mean_over_the_classes_that_it_shows(pred, label, dice):
    value = mean_class_dice(torch.tensor(pred), torch.tensor(label))
    assert value == pytest.approx(dice, nan_ok=True)
