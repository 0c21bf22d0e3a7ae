"""Random changes of training patches."""

from __future__ import annotations

from itertools import combinations

from monai.config import KeysCollection
from monai.transforms import Compose, RandFlipd, RandRotate90d


def random_orientation(keys: KeysCollection, spatial_dims: int, *, prob: float = 0.5) -> Compose:
    """Returns random flips along every axis and rotations by multiples of 90 degrees in every plane.

    Karimi and Gholipour 2023, section III-B.

    Args:
        keys: keys of images and labels.
        spatial_dims: 2 or 3.
        prob: probability of each flip and of each rotation; not stated in the paper.
    """
    flips = [RandFlipd(keys, prob=prob, spatial_axis=axis) for axis in range(spatial_dims)]
    planes = combinations(range(spatial_dims), 2)
    return Compose([*flips, *(RandRotate90d(keys, prob=prob, max_k=3, spatial_axes=plane) for plane in planes)])
