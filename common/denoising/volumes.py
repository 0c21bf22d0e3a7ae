"""Puts results of slices together: segmentation and anomaly map of a volume, in its own geometry."""

from __future__ import annotations

import logging
import sys
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms import Orientation
from torch import Tensor

from ..transforms.save import SaveSegmentationd, write_volume
from ..transforms.scan import LoadScand
from .loading import to_ras

logger = logging.getLogger(__name__)


class SaveSliced(SaveSegmentationd):
    """Writes what :class:`SaveSegmentationd` writes, and the anomaly map beside it; slices of volumes are left alone.

    A picture's map is ``<case>_anomaly.nii.gz``, float32, since pictures hold no such numbers.

    Args:
        keys: Key of the class indices.
        output_dir: Folder of the results.
        spatial_dims: Number of spatial axes: 3 writes NIfTI; 2, the default, writes PNG.
        score_key: Key of the anomaly score, ``anomaly`` by default; a case without one has no map.
        report: Report that is told of each complete segmentation, see :class:`SaveSegmentationd`. ``None`` by default.
    """

    def __init__(
        self, keys: Any, output_dir: str, spatial_dims: int = 2, score_key: str = "anomaly", report: Any = None
    ) -> None:
        super().__init__(keys, output_dir=output_dir, spatial_dims=spatial_dims, report=report)
        self.score_key = score_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` after writing.

        Raises:
            OutputError: When a file cannot be written.
        """
        if "volume" in data:
            return dict(data)
        saved = super().__call__(data)
        if self.score_key in saved:
            case = str(saved["case"])
            write_map(saved[self.score_key], self.output_dir / case / f"{case}_anomaly.nii.gz", np.float32)
        return saved


class VolumeWriter:
    """Collects the slices of volumes and writes ``<volume>/<volume>_seg.nii.gz``, and ``_anomaly.nii.gz`` where asked.

    Slices of a volume must come one after the other. Slices that show nothing or fail stay background.

    Args:
        output_dir: Folder of the results.
        score_key: Key of the anomaly score; ``anomaly`` by default.
    """

    def __init__(self, output_dir: str, score_key: str = "anomaly") -> None:
        self.output_dir, self.score_key = Path(output_dir), score_key
        self._name, self._source = "", None
        self._planes: dict[str, dict[int, Tensor]] = {}

    def attach(self, engine: Engine) -> None:
        """Attaches to an engine that segments case by case."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.write)
        self.sources = {
            str(case["volume"]): case["image"]
            for case in engine.data_loader.dataset.data  # type: ignore[attr-defined]
            if "volume" in case
        }

    def __call__(self, engine: Engine) -> None:
        """Keeps the slices of one iteration."""
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):  # type: ignore[arg-type]
            if "volume" not in batch:
                continue
            if batch["volume"] != self._name:
                self.write()
                self._name = str(batch["volume"])
            for key in ("pred", self.score_key):
                if key in output:
                    plane = torch.as_tensor(output[key]).cpu()
                    # As a picture's, a slice's class indices may come without the axis of channels.
                    self._planes.setdefault(key, {})[int(batch["plane"])] = plane.reshape(plane.shape[-2:])

    def write(self, _engine: Engine | None = None) -> None:
        """Writes the volume whose slices are kept.

        Raises:
            OutputError: When a file cannot be written.
        """
        if self._name and self._planes:
            # It has been read before, so that its size was accepted.
            load = LoadScand("image", max_voxels=sys.maxsize)
            volume = load({"image": self.sources[self._name], "case": self._name})["image"]
            # The segmentation comes last: where it is, a run that resumes takes the volume as done.
            for key, suffix, dtype in ((self.score_key, "anomaly", np.float32), ("pred", "seg", np.uint8)):
                planes = self._planes.get(key)
                if planes:
                    stack = stack_planes(planes, volume)
                    write_map(stack, self.output_dir / self._name / f"{self._name}_{suffix}.nii.gz", dtype)
            logger.info("volume %s written", self._name)
        self._name, self._planes = "", {}


def stack_planes(planes: Mapping[int, Tensor], volume: MetaTensor) -> MetaTensor:
    """Returns axial slices as a volume of the geometry of another.

    Args:
        planes: Number -> slice ``(H, W)`` of the volume turned to RAS; zero where there is none.
        volume: Volume ``(C, H, W, D)`` as its file holds it.
    """
    turned = to_ras(volume)
    stack = torch.zeros(1, *turned.shape[1:])
    for plane, values in planes.items():
        stack[0, ..., plane] = values
    back = Orientation("".join(nib.aff2axcodes(np.asarray(volume.affine))), labels=None)
    restored: MetaTensor = back(MetaTensor(stack, affine=turned.affine))
    restored.meta["nifti_geometry"] = volume.meta.get("nifti_geometry", "")
    return restored


def write_map(values: Any, path: Path, dtype: Any) -> None:
    """Writes ``(1, H, W[, D])`` as NIfTI.

    Raises:
        OutputError: When the file cannot be written.
    """
    array = torch.as_tensor(values)[0].cpu().numpy().astype(dtype)
    # Of a picture only the axes have a place in space, and these its metadata may tell otherwise than its file.
    geometry = getattr(values, "meta", {}).get("nifti_geometry", "") if array.ndim == 3 else ""
    write_volume(array, getattr(values, "affine", np.eye(3)), path, geometry)
