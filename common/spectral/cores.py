"""Plans which voxels of a sliding window count, so that every voxel of an image counts exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from monai.data.utils import dense_patch_slices

from ..errors import ConfigError
from ..transforms.padding import divisor_per_axis

Interval = tuple[int, int]


def fit_window(image_size: Sequence[int], roi_size: Sequence[int], divisor: int | Sequence[int]) -> tuple[int, ...]:
    """Returns the sliding window for one image: ``roi_size``, but no larger than the image rounded up to ``divisor``.

    A window much larger than the image would be mostly padding: slow, and seen by the network's normalization.

    Args:
        image_size: Voxels of the image along each axis.
        roi_size: Largest window, in voxels along each axis, multiples of ``divisor``.
        divisor: Number of voxels of which the network needs window sizes to be multiples, at least 1; one for all axes
            or one for each.

    Raises:
        ConfigError: When ``roi_size`` has another number of axes or is no multiple of ``divisor``.
    """
    if len(roi_size) != len(image_size):
        raise ConfigError(f"roi_size {list(roi_size)} has {len(roi_size)} axes, the image has {len(image_size)}")
    divisors = divisor_per_axis(divisor, len(roi_size))
    if any(size < number or size % number for size, number in zip(roi_size, divisors, strict=True)):
        text = list(divisor) if isinstance(divisor, Sequence) else divisor
        raise ConfigError(f"roi_size {list(roi_size)} must hold positive multiples of {text}")
    sizes = zip(roi_size, image_size, divisors, strict=True)
    return tuple(min(roi, -(-size // number) * number) for roi, size, number in sizes)


def axis_cores(starts: Sequence[int], window: int, image: Interval) -> dict[int, Interval]:
    """Returns, for the windows along one axis, the voxels each one owns, as half-open intervals.

    A voxel belongs to the window in which it lies deepest, that is, farthest from the window's nearer end; ties go to
    the window that starts first. Along several axes the core of a window is the box of its intervals.

    Args:
        starts: First voxel of every window, strictly increasing.
        window: Number of voxels of every window.
        image: Voxels that count at all, as a half-open interval; the rest is padding.

    Returns:
        Interval of every window by its start. The intervals cover ``image`` once and do not overlap; an interval may be
        empty.
    """
    bounds = [image[0]]
    for left, right in pairwise(starts):
        # Depth falls to the right in the left window and rises in the right one: equal at (left+right+window-1)/2.
        bounds.append((left + right + window - 1) // 2 + 1)
    bounds.append(image[1])
    clipped = [min(max(bound, image[0]), image[1]) for bound in bounds]
    return {start: (clipped[i], clipped[i + 1]) for i, start in enumerate(starts)}


def cells_in_core(core: Interval, start: int, window: int, cells: int) -> slice:
    """Returns the cells of a (coarser) feature map whose centers lie in a window's core, along one axis.

    Args:
        core: Voxels that the window owns, as a half-open interval, in the coordinates of the padded image.
        start: First voxel of the window, in the same coordinates.
        window: Number of voxels of the window.
        cells: Size of the window's feature map along the axis; one cell spans ``window / cells`` voxels.
    """

    def first_cell(edge: int) -> int:
        # Smallest k with (k + 1/2) * window / cells >= edge, in whole numbers.
        return -(-(2 * edge * cells - window) // (2 * window))

    low, high = first_cell(core[0] - start), first_cell(core[1] - start)
    return slice(max(low, 0), min(max(high, 0), cells))


def plan_cores(image_size: Sequence[int], window: Sequence[int], overlap: float) -> list[dict[int, Interval]]:
    """Returns the cores of all windows that MONAI's ``sliding_window_inference`` visits, axis by axis.

    Args:
        image_size: Voxels of the image along each axis, before padding; an image smaller than the window is padded on
            both sides.
        window: Voxels of the window along each axis.
        overlap: Share of a window that the next one covers again, in [0, 1).

    Returns:
        For each axis, the half-open interval of every window by its start, both in the padded image.
    """
    plans = []
    for size, extent in zip(image_size, window, strict=True):
        padded = max(size, extent)
        interval = extent if padded == extent else max(int(extent * (1 - overlap)), 1)
        patches = dense_patch_slices((padded,), (extent,), (interval,), return_slice=True)
        margin = (padded - size) // 2
        plans.append(axis_cores([patch[0].start for patch in patches], extent, (margin, margin + size)))
    return plans
