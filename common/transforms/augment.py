"""Random changes of training patches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from monai.config import KeysCollection
from monai.transforms import Compose, RandFlipd, RandRotate90d


def random_orientation(
    keys: KeysCollection,
    spatial_dims: int,
    *,
    prob: float = 0.5,
    roi_size: Sequence[int] | None = None,
    allow_missing_keys: bool = False,
) -> Compose:
    """Returns random flips along every axis and rotations by multiples of 90 degrees in every plane.

    Karimi and Gholipour 2023, section III-B.

    Args:
        keys: keys of images and labels.
        spatial_dims: 2 or 3.
        prob: probability of each flip and of each rotation; not stated in the paper.
        roi_size: of the patches; where given, only planes in which a patch is square are rotated, so that thick slices
            stay slices and patches keep their size.
        allow_missing_keys: whether a case may lack a key, as unlabeled cases do.
    """
    settings: dict[str, Any] = {"prob": prob, "allow_missing_keys": allow_missing_keys}
    flips = [RandFlipd(keys, spatial_axis=axis, **settings) for axis in range(spatial_dims)]
    planes = [(a, b) for a, b in combinations(range(spatial_dims), 2) if roi_size is None or roi_size[a] == roi_size[b]]
    return Compose([*flips, *(RandRotate90d(keys, max_k=3, spatial_axes=plane, **settings) for plane in planes)])
