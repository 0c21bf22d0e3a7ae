from itertools import product

import pytest
import torch
from monai.inferers import sliding_window_inference

from common.errors import ConfigError
from common.spectral.cores import axis_cores, cells_in_core, fit_window, plan_cores

PLANS = list(product([3, 8, 9, 13, 16, 29], [4, 5, 8], [0.0, 0.25, 0.3, 0.5, 0.75, 0.9]))


def monai_starts(size, window, overlap):
    """Where MONAI really starts its windows along one axis, in the padded image."""
    seen = []

    def predictor(windows, coordinates):
        seen.extend(place[2].start for place in coordinates)
        return windows

    sliding_window_inference(torch.zeros(1, 1, size, window), (window, window), 1, predictor, overlap, with_coord=True)
    return seen


def deepest_window(voxel, starts, window):
    """The window in which a voxel lies farthest from the nearer end; the first of several."""
    depths = [min(voxel - start, start + window - 1 - voxel) for start in starts]
    return starts[depths.index(max(depths))]


@pytest.mark.parametrize(("size", "window", "overlap"), PLANS)
def test_starts_are_those_of_monai(size, window, overlap):
    assert list(plan_cores([size], [window], overlap)[0]) == monai_starts(size, window, overlap)


@pytest.mark.parametrize(("size", "window", "overlap"), PLANS)
def test_every_voxel_belongs_once_to_its_deepest_window_and_padding_to_none(size, window, overlap):
    cores = plan_cores([size], [window], overlap)[0]
    owners = [(voxel, start) for start, (low, high) in cores.items() for voxel in range(low, high)]
    margin = (max(size, window) - size) // 2
    assert owners == [(voxel, deepest_window(voxel, list(cores), window)) for voxel in range(margin, margin + size)]


def test_ties_go_to_the_window_that_starts_first():
    # Voxel 3 lies one voxel deep in both windows.
    assert axis_cores([0, 2], 5, (0, 7)) == {0: (0, 4), 2: (4, 7)}


def test_windows_that_only_see_padding_own_nothing():
    assert axis_cores([0, 4, 8], 4, (5, 8)) == {0: (5, 5), 4: (5, 8), 8: (8, 8)}


def test_axes_are_planned_one_by_one():
    assert plan_cores([3, 12], [8, 8], 0.5) == [{0: (2, 5)}, {0: (0, 6), 4: (6, 12)}]


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize(("size", "overlap"), [(8, 0.25), (24, 0.0), (24, 0.5), (40, 0.75), (5, 0.5)])
def test_cells_count_where_their_center_lies_in_the_core(size, overlap, stride):
    window = 16
    for start, (low, high) in plan_cores([size], [window], overlap)[0].items():
        expected = [k for k in range(window // stride) if low <= start + (k + 0.5) * stride < high]
        chosen = cells_in_core((low, high), start, window, window // stride)
        assert list(range(window // stride))[chosen] == expected


@pytest.mark.parametrize("stride", [2, 4])
def test_every_cell_counts_once_where_windows_start_on_the_grid(stride):
    counted = []
    for start, core in plan_cores([32], [16], 0.5)[0].items():
        cells = cells_in_core(core, start, 16, 16 // stride)
        counted += [start // stride + k for k in range(cells.start, cells.stop)]
    assert sorted(counted) == list(range(32 // stride))


@pytest.mark.parametrize(
    ("image", "roi", "divisor", "expected"),
    [
        ((100, 100, 100), (96, 96, 96), 8, (96, 96, 96)),
        ((30, 96, 97), (96, 96, 96), 8, (32, 96, 96)),
        ((1, 8), (16, 16), 4, (4, 8)),
        ((80, 75, 30), (128, 128, 1), [16, 16, 1], (80, 80, 1)),
        ((80, 75, 30), (64, 64, 40), (16, 16, 1), (64, 64, 30)),
    ],
)
def test_window_is_no_larger_than_the_image_rounded_up(image, roi, divisor, expected):
    assert fit_window(image, roi, divisor) == expected


@pytest.mark.parametrize(
    ("image", "roi", "text"),
    [
        ((8, 8), (8, 8, 8), r"roi_size \[8, 8, 8\] has 3 axes, the image has 2"),
        ((8, 8), (8, 12), r"roi_size \[8, 12\] must hold positive multiples of 8"),
        ((8, 8), (8, 0), r"must hold positive multiples of 8"),
    ],
)
def test_window_that_does_not_fit_the_network_is_refused(image, roi, text):
    with pytest.raises(ConfigError, match=text):
        fit_window(image, roi, 8)


def test_window_that_does_not_fit_one_axis_is_refused():
    with pytest.raises(ConfigError, match=r"roi_size \[24, 32, 1\] must hold positive multiples of \[16, 16, 1\]"):
        fit_window((80, 80, 30), (24, 32, 1), [16, 16, 1])
