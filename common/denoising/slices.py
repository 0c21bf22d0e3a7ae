"""Lists slices as cases: which there are, whose they are, and which patients are drawn."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..data.cases import Case
from ..data.names import safe_name
from ..data.split import patient_of
from ..errors import BundleError, ConfigError, NotEnoughCasesError
from ..reading import MAX_VOXELS
from ..transforms.scan import LoadScand, scan_name
from .loading import PERCENTILE, foreground_percentiles, subtract_border, to_ras

logger = logging.getLogger(__name__)

Person = tuple[str, str]


def person_of(case: Case) -> Person:
    """Returns data set and patient of a case; data sets may number their patients alike."""
    return str(case.get("task", "")), patient_of(case)


def slice_cases(
    cases: Sequence[Case],
    *,
    spatial_dims: int = 2,
    percentile: float = PERCENTILE,
    clear_border: bool = False,
    drop_empty: bool = True,
    alone: bool = False,
    max_voxels: int = MAX_VOXELS,
) -> list[Case]:
    """Returns slices: every volume among the cases is replaced by its axial slices, and each knows its scan's scale.

    Slices of a volume get ``volume`` (the volume's name), ``plane`` and ``slice`` (its number). All get ``scale``, see
    :func:`foreground_percentiles`: over the volume, or over all slices of the patient. Slices that are zero everywhere
    are left out; what cannot be read is left as it is, so that its loading says why. What has a scale stays as it is.

    Args:
        cases: Cases of pictures and volumes.
        spatial_dims: Number of spatial axes, 2 by default. With 3, nothing is done: volumes are cases as they are.
        percentile: Percentile of the scale, see :func:`foreground_percentiles`. 99 by default.
        clear_border: Whether the scale is that of slices after :func:`subtract_border`. False by default.
        drop_empty: Whether pictures that are zero everywhere are left out, true by default; such slices of volumes
            always are.
        alone: Whether every picture is there once more, with the scale of itself: as it is met without the others of
            its patient. False by default.
        max_voxels: Largest number of voxels that a file may declare, see :class:`LoadScand`. 500 million by default.
    """
    if spatial_dims != 2:
        return list(cases)
    members: dict[Person, list[int]] = {}
    slices = {number: [case] for number, case in enumerate(cases) if "scale" in case}
    for number, case in enumerate(cases):
        if number not in slices:
            members.setdefault(person_of(case), []).append(number)
    empty = 0
    for numbers in members.values():
        images = {number: _read(cases[number], max_voxels) for number in numbers}
        pictures = {n: image for n, image in images.items() if image is not None and image.ndim == 3}
        scale = _scale(list(pictures.values()), percentile, clear_border, scan_name(cases[numbers[0]]))
        for number, image in images.items():
            case, picture = cases[number], pictures.get(number)
            if image is not None and image.ndim == 4:
                slices[number] = _planes(case, image, percentile, clear_border)
                empty += image.shape[-1] - len(slices[number])
            elif picture is None:
                slices[number] = [case]
            elif drop_empty and not picture.any():
                slices[number] = []
                empty += 1
            else:
                own = _own_scale(picture, percentile, clear_border) if alone else scale
                scales = [scale] if own == scale else [scale, own]
                slices[number] = [case | ({"scale": given} if given else {}) for given in scales]
    if empty:
        logger.info("%d slice(s) are zero everywhere and are left out", empty)
    return [case for number in range(len(cases)) for case in slices[number]]


def _read(case: Case, max_voxels: int) -> Tensor | None:
    """The image of a case, none where it cannot be read."""
    try:
        load = LoadScand("image", max_voxels=max_voxels)
        image = load({key: case[key] for key in ("image", "case", "refused") if key in case})["image"]
    except BundleError:
        return None
    return to_ras(image) if image.ndim == 4 else image


def _scale(images: Sequence[Tensor], percentile: float, clear_border: bool, name: str) -> list[float]:
    """The scale of one scan; empty where its slices do not go together, which their own checks will tell."""
    if len({len(image) for image in images}) != 1:
        return []
    scale = foreground_percentiles([subtract_border(i) for i in images] if clear_border else images, percentile)
    missing = [index for index, number in enumerate(scale) if not number]
    if missing and len(missing) < len(scale):
        logger.warning("%s: channel(s) %s hold nothing in the whole scan and stay zero", name, missing)
    return scale


def _own_scale(picture: Tensor, percentile: float, clear_border: bool) -> list[float]:
    """The scale of a picture that is met alone; a channel without any intensity is for :func:`_scale` to tell of."""
    return foreground_percentiles([subtract_border(picture) if clear_border else picture], percentile)


def _planes(case: Case, volume: Tensor, percentile: float, clear_border: bool) -> list[Case]:
    """The slices of a volume that show anything."""
    shown = volume.flatten(0, -2).any(dim=0).nonzero().flatten().tolist()
    scale, name = _scale(list(volume.unbind(-1)), percentile, clear_border, scan_name(case)), str(case.get("case", ""))
    own = {"volume": name, "scale": scale, "patient_images": [case["image"]]}
    return [case | own | {"case": safe_name(f"{name}_s{plane:03d}"), "plane": plane, "slice": plane} for plane in shown]


def known_slices(cases: Sequence[Case]) -> list[Case]:
    """Returns the cases of an evaluation that are in-distribution, labeled and not damaged."""
    return [case for case in cases if "label" in case and case.get("in_distribution", True) and "damage" not in case]


def draw_patients(cases: Sequence[Case], number: int | None, seed: int) -> list[int]:
    """Returns the numbers of the cases of so many patients, drawn; those of a smaller number are among a larger's.

    Args:
        cases: Cases of all patients.
        number: Number of patients, at least 0; ``None`` for all.
        seed: Seed of the draw.

    Raises:
        NotEnoughCasesError: When there are fewer.
        ConfigError: When the number is negative.
    """
    everyone = sorted({person_of(case) for case in cases})
    if number is None:
        return list(range(len(cases)))
    if number < 0:
        raise ConfigError(f"num_labeled_patients is {number}; accepted are 0 and more, or none for all")
    if number > len(everyone):
        raise NotEnoughCasesError(
            f"num_labeled_patients is {number}, but {len(everyone)} patient(s) are left to train on, the others are "
            "for validation and test; lower it, or add patients to dataset_dir"
        )
    order = np.random.default_rng(seed).permutation(len(everyone))
    chosen = {everyone[place] for place in order[:number]}
    return [index for index, case in enumerate(cases) if person_of(case) in chosen]
