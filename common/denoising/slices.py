"""Slices as cases: which there are, which belong together, which are healthy."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.transforms import Randomizable
from torch import Tensor

from ..data.cases import Case, Folders, name_folders
from ..data.scans import find_scans
from ..data.split import patient_of
from ..describe import describe, settings_digest
from ..errors import BundleError, ConfigError, LabelError, MissingDataError, NotEnoughCasesError
from ..session import is_main_process
from ..stages import cases_digest
from ..transforms.scan import LoadScand, scan_name
from ..weights import read_checkpoint, save_atomically
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
) -> list[Case]:
    """Returns slices: every volume among the cases is replaced by its axial slices, and each knows its scan's scale.

    Slices of a volume get ``volume`` (the volume's name), ``plane`` and ``slice`` (its number). All get ``scale``, see
    :func:`foreground_percentiles`: over the volume, or over all slices of the patient. Slices that are zero everywhere
    are left out; what cannot be read is left as it is, so that its loading says why. What has a scale stays as it is.

    Args:
        cases: pictures and volumes.
        spatial_dims: with 3, nothing is done: volumes are cases as they are.
        percentile: of the scale.
        clear_border: whether the scale is that of slices after :func:`subtract_border`.
        drop_empty: whether pictures that are zero everywhere are left out; such slices of volumes always are.
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
        images = {number: _read(cases[number]) for number in numbers}
        pictures = {n: image for n, image in images.items() if image is not None and image.ndim == 3}
        scale = _scale(list(pictures.values()), percentile, clear_border, scan_name(cases[numbers[0]]))
        for number, image in images.items():
            case = cases[number]
            if image is not None and image.ndim == 4:
                slices[number] = _planes(case, image, percentile, clear_border)
                empty += image.shape[-1] - len(slices[number])
            elif number in pictures and drop_empty and not image.any():  # type: ignore[union-attr]
                slices[number] = []
                empty += 1
            else:
                slices[number] = [case | ({"scale": scale} if number in pictures and scale else {})]
    if empty:
        logger.info("%d slice(s) are zero everywhere and are left out", empty)
    return [case for number in range(len(cases)) for case in slices[number]]


def _read(case: Case) -> Tensor | None:
    """The image of a case, none where it cannot be read."""
    try:
        image = LoadScand("image")({key: case[key] for key in ("image", "case") if key in case})["image"]
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


def _planes(case: Case, volume: Tensor, percentile: float, clear_border: bool) -> list[Case]:
    """The slices of a volume that show anything."""
    shown = volume.flatten(0, -2).any(dim=0).nonzero().flatten().tolist()
    scale, name = _scale(list(volume.unbind(-1)), percentile, clear_border, scan_name(case)), str(case.get("case", ""))
    own = {"volume": name, "scale": scale}
    return [case | own | {"case": f"{name}_s{plane:03d}", "plane": plane, "slice": plane} for plane in shown]


def known_slices(cases: Sequence[Case]) -> list[Case]:
    """Returns the cases of an evaluation that are in-distribution, labeled and not damaged."""
    return [case for case in cases if "label" in case and case.get("in_distribution", True) and "damage" not in case]


def draw_patients(cases: Sequence[Case], number: int | None, seed: int) -> list[int]:
    """Returns the numbers of the cases of so many patients, drawn; those of a smaller number are among a larger's.

    Args:
        cases: of all patients.
        number: of patients; ``None`` for all.
        seed: of the draw.

    Raises:
        NotEnoughCasesError: when there are fewer.
        ConfigError: when the number is negative.
    """
    everyone = sorted({person_of(case) for case in cases})
    if number is None:
        return list(range(len(cases)))
    if number < 0:
        raise ConfigError(f"num_labeled_patients is {number}; accepted are 0 and more, or none for all")
    if number > len(everyone):
        raise NotEnoughCasesError(
            f"num_labeled_patients is {number}, but {len(everyone)} patient(s) are there to train on, the others are "
            "for validation and test; lower it, or add patients to dataset_dir"
        )
    order = np.random.default_rng(seed).permutation(len(everyone))
    chosen = {everyone[place] for place in order[:number]}
    return [index for index, case in enumerate(cases) if person_of(case) in chosen]


@dataclass(frozen=True)
class PreparedSlice:
    """A slice in memory.

    Args:
        case: what is known of it.
        image: ``(C, H, W[, D])``, prepared.
        label: class indices ``(1, H, W[, D])``; ``None`` without.
        healthy: whether its whole label is background; true without a label.
    """

    case: Case
    image: Tensor
    label: Tensor | None
    healthy: bool


class SliceDataset(Dataset):
    """Slices (or, in 3-D, volumes), in memory: 4 bytes for each pixel and channel, 1 for the label.

    Args:
        data: cases with ``image`` and ``label``; volumes are cut into slices, see :func:`slice_cases`.
        load: loads and checks a case and turns its label into class indices.
        prepare: scales it and brings it to one size, without randomness.
        transform: random changes.
        spatial_dims: 2 or 3.
        percentile: see :func:`slice_cases`.
        clear_border: see :func:`slice_cases`.
        cache_dir: folder where prepared slices are kept for further runs on the same files with the same settings; none
            are by default.
    """

    def __init__(
        self,
        data: Sequence[Case],
        load: Callable[[Case], dict[str, Any]],
        prepare: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        transform: Callable[..., Any] | None = None,
        spatial_dims: int = 2,
        percentile: float = PERCENTILE,
        clear_border: bool = False,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(data, transform)
        self.cache_dir = cache_dir
        self.load, self.prepare = load, prepare
        self.spatial_dims, self.percentile, self.clear_border = spatial_dims, percentile, clear_border

    @property
    def slicing(self) -> dict[str, Any]:
        """Settings of :func:`slice_cases`."""
        return {"spatial_dims": self.spatial_dims, "percentile": self.percentile, "clear_border": self.clear_border}

    @cached_property
    def slices(self) -> list[Case]:
        """All slices, as cases."""
        if self.cache_dir is not None:
            return [item.case for item in self.items]
        return slice_cases(self.data, **self.slicing)

    @cached_property
    def items(self) -> list[PreparedSlice]:
        """All slices, in memory."""
        if self.cache_dir is None:
            return [self._prepare(case) for case in self.slices]
        settings = settings_digest([self.load, self.prepare, self.slicing])
        # Where files lie goes in as well, since the cases name them.
        described = [cases_digest(self.data), describe(self.data), settings]
        path = Path(self.cache_dir) / f"{settings_digest(described)}.pt"
        if not path.is_file():
            items = [self._prepare(case) for case in slice_cases(self.data, **self.slicing)]
            if is_main_process():
                save_atomically({"items": [vars(item) for item in items]}, path)
            return items
        return [PreparedSlice(**item) for item in read_checkpoint(path)["items"]]

    @property
    def num_known(self) -> int:
        """Number of slices, by the name that ``PatchSampler`` asks for."""
        return len(self.slices)

    def require_foreground(self, indices: Sequence[int]) -> None:
        """Makes sure that there is something to learn to segment.

        Raises:
            LabelError: when all labels of these slices are empty.
        """
        if all(self.items[index].healthy for index in indices):
            raise LabelError(
                f"the labels of all {len(indices)} training cases hold no foreground: there is nothing to learn to "
                "segment; check labels and foreground_labels, or raise num_labeled_patients"
            )

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns ``image`` ``(C, H, W[, D])`` and ``label`` ``(1, H, W[, D])``, changed at random."""
        item = self.items[index]
        data = {"image": item.image.clone()} | ({} if item.label is None else {"label": item.label.clone()})
        return data if self.transform is None else self.transform(data)

    def _prepare(self, case: Case) -> PreparedSlice:
        loaded = self.load(dict(case))
        healthy = "label" not in loaded or not bool(loaded["label"].any())
        ready = self.prepare(loaded)
        image, label = (_plain(ready[key]) if key in ready else None for key in ("image", "label"))
        assert image is not None
        return PreparedSlice(case, image, label, healthy)


class HealthySlices(Dataset):
    """The healthy ones among slices, each with its clean image as ``label``: what a denoiser learns from.

    Args:
        source: where the slices come from, and how those of ``healthy_dir`` are prepared.
        transform: copies ``image`` to ``label`` and adds noise to it.
        healthy: ``labels`` for slices whose label is empty, ``all`` for every one, a list of names of cases (of a
            volume, its name or those of its slices), or a JSON file that holds such a list.
        healthy_dir: folder or folders of further images without anything abnormal; labels are not needed.
        load: loads and checks an image of those.
        fixed: draw the noise once, by ``seed``, so that validations can be compared.
        seed: of that draw.
    """

    def __init__(
        self,
        source: SliceDataset,
        transform: Callable[..., Any],
        *,
        healthy: str | Sequence[str] = "labels",
        healthy_dir: Folders | None = None,
        load: Callable[[Case], dict[str, Any]] | None = None,
        fixed: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__([], transform)
        if healthy_dir and load is None:
            raise ConfigError("healthy_dir is given, but nothing that loads its images; set load")
        self.source, self.load, self.fixed, self.seed = source, load, fixed, seed
        self.names = read_healthy(healthy)
        self.folders = name_folders(healthy_dir) if healthy_dir else []

    @cached_property
    def further(self) -> list[Case]:
        """The images of ``healthy_dir``."""
        dims = self.source.spatial_dims
        found = [
            case | {"task": task}
            for folder, task in self.folders
            for case in find_scans(folder, spatial_dims=dims, name="healthy_dir")
        ]
        return [{key: value for key, value in case.items() if key != "label"} for case in found]

    @cached_property
    def images(self) -> list[Tensor]:
        """The prepared images of all healthy slices.

        Raises:
            NotEnoughCasesError: when there is none.
        """
        own = [item.image for item in self.source.items if self._is_healthy(item)]
        source = self.source
        rest = SliceDataset(self.further, self.load or source.load, source.prepare, **source.slicing)
        found = own + [item.image for item in rest.items]
        if not found:
            raise NotEnoughCasesError(
                f"none of {len(self.source)} slices is healthy: every label holds foreground; name healthy slices in "
                "healthy, give healthy_dir, set healthy to 'all' to denoise every slice, or pretrained to false"
            )
        return found

    @cached_property
    def _fixed(self) -> list[dict[str, Any]]:
        """The slices with their noise, drawn once."""
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed=self.seed)
        return [self.transform({"image": image.clone()}) for image in self.images]

    @property
    def num_known(self) -> int:
        """Number of slices, by the name that ``PatchSampler`` asks for."""
        return len(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns ``image``, with noise, and ``label``, the same without."""
        return self._fixed[index] if self.fixed else self.transform({"image": self.images[index].clone()})

    def _is_healthy(self, item: PreparedSlice) -> bool:
        if self.names is None:
            return True
        if not self.names:
            return item.healthy
        return bool({str(item.case.get(key)) for key in ("case", "volume")} & self.names)


def read_healthy(healthy: str | Sequence[str]) -> frozenset[str] | None:
    """Returns the names of healthy cases; empty where labels tell them, ``None`` where all are.

    Args:
        healthy: see :class:`HealthySlices`.

    Raises:
        MissingDataError: when a file is named that does not exist or holds no list of names.
    """
    if healthy == "all":
        return None
    if healthy == "labels":
        return frozenset()
    if isinstance(healthy, str):
        try:
            healthy = json.loads(Path(healthy).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MissingDataError(
                f"healthy is {healthy!r}, which is no JSON file; accepted are 'labels', 'all', a list of names of "
                "cases, or a JSON file with one"
            ) from error
    if not isinstance(healthy, list | tuple) or not healthy:
        raise MissingDataError(f"healthy gives {healthy!r}; accepted is a list of names of cases, at least one")
    return frozenset(str(name) for name in healthy)


def _plain(image: Any) -> Tensor:
    """The tensor without metadata."""
    return torch.as_tensor(image).as_subclass(Tensor).contiguous()
