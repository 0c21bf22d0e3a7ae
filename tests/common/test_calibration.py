import math
from itertools import product

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from common.calibration import boundary_band, calibration_bins, calibration_error, errors_from_bins
from common.errors import ConfigError


def reference_errors(prob, target, num_bins):
    """The definition, voxel by voxel."""
    bins = {}
    for p, y in zip(prob.flatten().tolist(), target.flatten().tolist(), strict=True):
        bins.setdefault(min(math.floor(num_bins * p), num_bins - 1), []).append((p, y))
    gaps = {}
    for k, members in bins.items():
        conf, acc = (sum(values) / len(members) for values in zip(*members, strict=True))
        gaps[k] = abs(acc - conf)
    ece = sum(len(bins[k]) / prob.numel() * gap for k, gap in gaps.items())
    return ece, max(gaps.values())


def reference_band(label, width):
    """Distance to the nearest voxel of the other kind, by trying them all."""
    inside = label.numpy() != 0
    band = np.zeros_like(inside)
    for voxel in product(*map(range, inside.shape)):
        others = np.argwhere(inside != inside[voxel])
        band[voxel] = len(others) > 0 and np.sqrt(((others - voxel) ** 2).sum(axis=1)).min() <= width
    return torch.from_numpy(band)


def random_case(shape=(6, 7, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    prob = torch.rand(shape, generator=generator, dtype=torch.float64)
    return prob, (torch.rand(shape, generator=generator) < prob**2).long()


def test_check_values_of_the_method():
    prob, target = torch.tensor([0.9, 0.9, 0.1, 0.1], dtype=torch.float64), torch.tensor([1, 0, 0, 0])
    assert calibration_error(prob, target) == pytest.approx((0.25, 0.4), abs=1e-12)


@pytest.mark.parametrize("num_bins", [1, 4, 10, 15])
@pytest.mark.parametrize("seed", [0, 1])
def test_errors_equal_the_voxelwise_definition(num_bins, seed):
    prob, target = random_case(seed=seed)
    expected = reference_errors(prob, target, num_bins)
    assert calibration_error(prob, target, num_bins=num_bins) == pytest.approx(expected, abs=1e-12)


def test_only_voxels_of_the_mask_count():
    prob, target = random_case()
    mask = torch.rand(prob.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    expected = reference_errors(prob[mask], target[mask], 10)
    assert calibration_error(prob, target, mask=mask) == pytest.approx(expected, abs=1e-12)


def test_bins_are_closed_below_and_the_last_one_holds_certainty():
    prob = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    bins = calibration_bins(prob, torch.tensor([0, 1, 0, 1, 1]), num_bins=4)
    expected = torch.tensor([[1, 1, 1, 2], [0, 0.25, 0.5, 1.75], [0, 1, 0, 2]], dtype=torch.float64)
    assert_close(bins, expected)


def test_bins_of_cases_add_up_to_the_bins_of_all():
    cases = [random_case(seed=seed) for seed in range(3)]
    added = sum(calibration_bins(prob, target) for prob, target in cases)
    prob, target = (torch.cat(parts) for parts in zip(*cases, strict=True))
    assert errors_from_bins(added) == pytest.approx(calibration_error(prob, target), abs=1e-12)


def test_perfect_prediction_has_no_error():
    target = torch.tensor([0, 1, 1, 0])
    assert calibration_error(target.float(), target) == (0.0, 0.0)


def test_no_voxel_gives_nan():
    prob, target = random_case()
    assert all(math.isnan(value) for value in calibration_error(prob, target, mask=torch.zeros_like(prob)))


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_values_that_are_no_probability_are_refused(value):
    for function in (calibration_error, calibration_bins):
        with pytest.raises(ConfigError, match=r"prob must lie in \[0, 1\]") as caught:
            function(torch.tensor([0.5, value]), torch.tensor([0, 1]))
        assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("target", "mask"), [((3,), None), ((2,), (3,))])
def test_other_shapes_are_refused(target, mask):
    with pytest.raises(ConfigError, match="must have equal shapes"):
        calibration_error(torch.zeros(2), torch.zeros(target), mask=None if mask is None else torch.zeros(mask))


@pytest.mark.parametrize("shape", [(7, 6), (5, 4, 6)])
@pytest.mark.parametrize("width", [0, 1, 1.5, 2, 3])
def test_band_equals_brute_force_distance(shape, width):
    label = torch.zeros(shape, dtype=torch.long)
    label[tuple(slice(1, 4) for _ in shape)] = 1
    label[(0,) * len(shape)] = 2
    assert_close(boundary_band(label, width), reference_band(label, width))


def test_band_of_the_paper_reaches_ten_voxels():
    label = torch.zeros(30, 3)
    label[15:] = 1
    assert torch.nonzero(boundary_band(label)[:, 0]).flatten().tolist() == list(range(5, 25))


@pytest.mark.parametrize("fill", [0, 1])
def test_label_without_a_surface_has_no_band(fill):
    band = boundary_band(torch.full((4, 5, 3), fill))
    assert band.dtype == torch.bool
    assert band.shape == (4, 5, 3)
    assert not band.any()
