import math

import numpy as np
import pytest
import torch
from scipy.stats import skew
from torch.testing import assert_close

from common.errors import FeatureError
from common.spectral import layout
from common.spectral.layout import layout_signature


def logits_of(label, num_classes):
    return torch.nn.functional.one_hot(torch.as_tensor(label), num_classes).movedim(-1, 0).double()


def draw_label(*shape, num_classes=4, seed=0):
    """Classes that lie in blobs of their own, in places that nothing balances."""
    label = np.zeros(shape, dtype=np.int64)
    random = np.random.default_rng(seed)
    for number in range(1, num_classes):
        corner = [random.integers(0, size // 2) for size in shape]
        label[tuple(slice(first, first + random.integers(2, 5)) for first in corner)] = number
    label[random.random(shape) < 0.3] = 0
    return label


def naive_layout(masks):
    """From the coordinates of every voxel, one class after the other."""
    places = np.argwhere(masks.any(axis=0))
    center, spread = places.mean(axis=0), np.sqrt(places.var(axis=0) + 1 / 12)
    third = ((places - center) ** 3).mean(axis=0)
    numbers = [math.log(len(places)), *(np.log(spread) - np.log(spread).mean()), *(third / spread**3)]
    if len(masks) > 1:
        numbers += [math.log(max(mask.sum(), 1) / len(places)) for mask in masks]
        for axis in range(masks.ndim - 1):
            for mask in masks:
                own = np.argwhere(mask)
                numbers.append((own.mean(axis=0)[axis] - center[axis]) / spread[axis] if len(own) else 0.0)
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(9, 8, 7), (11, 10)])
@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("chunk", [layout.CHUNK, 1])
def test_numbers_are_those_of_the_places_of_all_voxels(shape, num_classes, chunk, monkeypatch):
    monkeypatch.setattr(layout, "CHUNK", chunk)
    label = draw_label(*shape, num_classes=num_classes)
    masks = label == np.arange(1, num_classes).reshape(-1, *[1] * len(shape))
    found = layout_signature(logits_of(label, num_classes))
    assert_close(found, naive_layout(masks), rtol=0, atol=1e-9)
    axes, classes = len(shape), num_classes - 1
    assert len(found) == 1 + 2 * axes + (classes * (1 + axes) if classes > 1 else 0)


def test_channels_of_a_sigmoid_may_overlap():
    logits = torch.randn(3, 6, 7, generator=torch.Generator().manual_seed(0))
    assert_close(layout_signature(logits, sigmoid=True), naive_layout((logits > 0).numpy()), rtol=0, atol=1e-9)


def test_skewness_is_that_of_a_library_but_for_the_extent_of_a_voxel():
    label = np.zeros((40, 5), dtype=np.int64)
    label[3:30, 2] = 1
    label[25:30] = 1
    places = np.argwhere(label)[:, 0]
    found = float(layout_signature(logits_of(label, 2))[3])
    assert found == pytest.approx(skew(places) * (places.var() / (places.var() + 1 / 12)) ** 1.5, rel=1e-9)


def test_mirroring_changes_signs_along_its_axis_alone():
    label = draw_label(9, 8, 7)
    plain, mirrored = (layout_signature(logits_of(each, 4)) for each in (label, label[::-1].copy()))
    turned = [4, *range(10, 13)]  # skewness of the first axis, and the places of three classes along it
    signs = torch.ones(len(plain), dtype=torch.float64).index_fill(0, torch.tensor(turned), -1.0)
    assert_close(mirrored, plain * signs, rtol=0, atol=1e-9)
    assert plain[turned].abs().min() > 0.01


def test_a_wider_field_of_view_changes_nothing():
    label = draw_label(9, 8, 7)
    wider = np.pad(label, ((3, 1), (0, 4), (2, 2)))
    assert_close(layout_signature(logits_of(wider, 4)), layout_signature(logits_of(label, 4)), rtol=0, atol=1e-9)


def test_what_is_not_found_counts_as_one_voxel():
    nothing = layout_signature(logits_of(np.zeros((4, 6), dtype=np.int64), 3))
    assert nothing.tolist() == pytest.approx([0.0] * 11)
    label = np.zeros((4, 6), dtype=np.int64)
    label[1:3, 1:4] = 1
    found = layout_signature(logits_of(label, 3))
    assert found[5:].tolist() == pytest.approx([0.0, -math.log(6), 0.0, 0.0, 0.0, 0.0])


def test_output_that_is_not_finite_has_no_layout():
    with pytest.raises(FeatureError, match="NaN or infinite"):
        layout_signature(torch.tensor([[[0.0, math.nan]]]))
