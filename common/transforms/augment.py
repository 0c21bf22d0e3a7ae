"""Changes training patches at random."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from monai.config import KeysCollection
from monai.transforms import (
    Compose,
    EnsureTyped,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
)


def random_orientation(
    keys: KeysCollection,
    spatial_dims: int,
    *,
    prob: float = 0.5,
    roi_size: Sequence[int] | None = None,
    allow_missing_keys: bool = False,
) -> Compose:
    """Returns random flips along every axis and rotations by multiples of 90 degrees in every plane.

    What comes out are plain tensors without metadata.

    Karimi and Gholipour 2023, section III-B.

    Args:
        keys: Keys of images and labels.
        spatial_dims: Number of spatial axes, 2 or 3.
        prob: Probability of each flip and of each rotation, in [0, 1]; not stated in the paper. Default 0.5.
        roi_size: Voxels of the patches along each axis. Where given, only planes in which a patch is square are
            rotated, so that thick slices stay slices and patches keep their size. Default none.
        allow_missing_keys: Whether a case may lack a key, as unlabeled cases do. Default false.
    """
    settings: dict[str, Any] = {"prob": prob, "allow_missing_keys": allow_missing_keys}
    flips = [RandFlipd(keys, spatial_axis=axis, **settings) for axis in range(spatial_dims)]
    planes = [(a, b) for a, b in combinations(range(spatial_dims), 2) if roi_size is None or roi_size[a] == roi_size[b]]
    turns = [RandRotate90d(keys, max_k=3, spatial_axes=plane, **settings) for plane in planes]
    plain = EnsureTyped(keys, track_meta=False, allow_missing_keys=allow_missing_keys)
    return Compose([*flips, *turns, plain])


def random_frame(
    keys: Sequence[str],
    spatial_dims: int,
    *,
    label_key: str = "label",
    prob: float = 0.5,
    roi_size: Sequence[int] | None = None,
    rotation: float = 0.26,
    zoom: float = 0.15,
    contrast: float = 0.2,
    brightness: float = 0.1,
    noise: float = 0.02,
) -> Compose:
    """Returns random changes of whole frames, which leave the classes they show as they are but for the edges.

    What comes out are plain tensors without metadata.

    :func:`random_orientation`, then rotation and zoom, contrast, brightness and noise; the sources state none of them.

    Args:
        keys: Keys of images and labels; a frame may lack a key.
        spatial_dims: Number of spatial axes, 2 or 3.
        label_key: Key among ``keys`` that holds class indices. Default ``label``.
        prob: Probability of each change, in [0, 1]. Default 0.5.
        roi_size: Pixels of the frames along each axis, see :func:`random_orientation`. Default none.
        rotation: Largest angle of a rotation either way, in radians. Default 0.26, which is 15 degrees.
        zoom: Largest change of the size either way, as a share. Default 0.15.
        contrast: Largest change of all intensities either way, as a share of each. Default 0.2.
        brightness: Largest intensity that is added or taken away, where images reach from 0 to 1. Default 0.1.
        noise: Largest standard deviation of the noise, in the unit of the image. Default 0.02.
    """
    images = [key for key in keys if key != label_key]
    modes = ["nearest" if key == label_key else "bilinear" for key in keys]
    turn = rotation if spatial_dims == 2 else [rotation] * 3
    settings: dict[str, Any] = {"prob": prob, "allow_missing_keys": True}
    return Compose(
        [
            random_orientation(keys, spatial_dims, prob=prob, roi_size=roi_size, allow_missing_keys=True),
            RandAffined(
                keys,
                rotate_range=turn,
                scale_range=[zoom] * spatial_dims,
                mode=modes,
                padding_mode="border",
                **settings,
            ),
            RandScaleIntensityd(images, factors=contrast, **settings),
            RandShiftIntensityd(images, offsets=brightness, **settings),
            RandGaussianNoised(images, std=noise, **settings),
            EnsureTyped(keys, track_meta=False, allow_missing_keys=True),
        ]
    )


def random_appearance(keys: Sequence[str], spatial_dims: int, *, strength: float = 1.0) -> Compose:
    """Returns random changes of place and of intensities, in the manner of nnU-Net.

    Holzschuh et al., MIDL 2023, section 4: "nnU-Net-inspired data augmentation". Probabilities and ranges are those of
    Isensee et al., Nature Methods 18(2), 2021, supplement, as far as MONAI has the transforms. Rotation is by up to 180
    degrees in 2-D and 30 in 3-D, scaling by 0.7 to 1.4. Noise, blur, brightness, gamma and mirroring follow. Low
    resolution is left out.

    Args:
        keys: Key of the image, then keys of labels. Labels hold class indices; only their place is changed.
        spatial_dims: Number of spatial axes, 2 or 3.
        strength: Factor of all probabilities; 0 changes nothing. Default 1.
    """
    image = keys[0]
    angle = 3.14159 if spatial_dims == 2 else 0.52
    modes = ["bilinear", *["nearest"] * (len(keys) - 1)]
    move: dict[str, Any] = {"prob": 0.2 * strength, "mode": modes, "padding_mode": "zeros"}
    turns, widths = [angle] * (1 if spatial_dims == 2 else 3), [(-0.3, 0.4)] * spatial_dims
    blur: dict[str, Any] = {f"sigma_{axis}": (0.5, 1.0) for axis in "xyz"}
    return Compose(
        [
            RandAffined(keys, rotate_range=turns, **move),
            RandAffined(keys, scale_range=widths, **move),
            RandGaussianNoised(image, prob=0.15 * strength, std=0.1),
            RandGaussianSmoothd(image, prob=0.1 * strength, **blur),
            RandScaleIntensityd(image, factors=0.25, prob=0.15 * strength),
            RandAdjustContrastd(image, prob=0.3 * strength, gamma=(0.7, 1.5), retain_stats=True),
            *(RandFlipd(keys, prob=0.5 * strength, spatial_axis=axis) for axis in range(spatial_dims)),
        ]
    )
