"""Writes segmentations."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import nibabel as nib
import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor, NibabelWriter, PILWriter
from monai.data.utils import to_affine_nd
from monai.transforms import SaveImaged
from numpy.typing import NDArray

from ..dicom.write import check_dicom_output, write_dicom
from ..errors import BundleError, ConfigError
from ..reading import forms_differ, geometry_header, nifti_image
from ..runtime.files import write_atomically
from .scan import scan_name

logger = logging.getLogger(__name__)

OutputFormat = Literal["nifti", "dicom_seg"]

FORMS_DIFFER = (
    "sform, qform and spacing of the scan disagree; its mask lies where the sform puts the scan, as nibabel reads it, "
    "but programs built on ITK may show the scan elsewhere"
)
"""Warning of a scan of which a viewer may not agree with its mask."""


class SaveSegmentationd(SaveImaged):
    """Writes ``output_dir/<case>/<case>_seg.nii.gz`` (a picture's as ``.png``) in the geometry of the input.

    With ``output_format="dicom_seg"`` a DICOM series also gets ``<case>_seg.dcm``, a DICOM SEG that refers to it, and
    ``<case>_report.dcm``, a structured report of the verdict in ``result``. A file appears under its name only when it
    is complete. MONAI Label leaves every ``SaveImaged`` out, as it writes results itself.

    Args:
        keys: Keys of the class indices, ``(1, H, W[, D])``.
        output_dir: Folder of the results.
        spatial_dims: Number of spatial axes. 3, the default, writes NIfTI; 2 writes PNG.
        output_format: ``nifti``, the default, or ``dicom_seg`` for DICOM beside the NIfTI, which needs the package
            highdicom.
        metadata_file: File ``configs/metadata.json`` of the bundle, after which DICOM files name segments and bundle.
            Default none.
        mark_segments: Whether the labels of the segments in DICOM say so where the scan is out of distribution. Default
            true.
        report: Report whose ``announce`` is called with the case's name and verdict when a segmentation is complete,
            before it appears. Where that fails, the segmentation does not appear. Default none.

    Raises:
        ConfigError: When the format is unknown, or ``dicom_seg`` impossible.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        spatial_dims: int = 3,
        output_format: OutputFormat = "nifti",
        metadata_file: str | None = None,
        class_names: Mapping[str, str] | None = None,
        report: Any = None,
        *,
        mark_segments: bool = True,
    ) -> None:
        super().__init__(keys, output_dir=output_dir, print_log=False)
        if output_format not in get_args(OutputFormat):
            raise ConfigError(f"output_format is {output_format!r}; accepted are {', '.join(get_args(OutputFormat))}")
        self.output_dir = Path(output_dir)
        self.spatial_dims, self.report, self.mark_segments = spatial_dims, report, mark_segments
        self.bundle = (
            check_dicom_output(spatial_dims, metadata_file, class_names) if output_format == "dicom_seg" else None
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` after writing, with one line in ``error`` where it could not become DICOM.

        The case fails then, but keeps its NIfTI and its verdict, which an exception would take with it.

        Raises:
            OutputError: When the NIfTI or PNG cannot be written.
        """
        saved = dict(data)
        case = str(data["case"])
        stem, name = self.output_dir / case / case, scan_name(data)
        for key in self.key_iterator(saved):
            announce = None if self.report is None else partial(self.report.announce, case, data.get("result") or {})
            self._write_image(data[key], stem, name, announce)
            if self.bundle is None:
                continue
            try:
                given = (data[key], data.get("image"), data.get("result") or {}, self.bundle, stem, name)
                write_dicom(*given, mark_segments=self.mark_segments)
            except BundleError as error:
                reason = str(error)
                saved["error"] = reason if name in reason else f"{name}: {reason}"
                logger.error("%s", saved["error"])
        return saved

    def _write_image(
        self, segmentation: MetaTensor, stem: Path, name: str, announce: Callable[[], None] | None
    ) -> None:
        """Writes one segmentation as NIfTI or PNG, after what announces it."""
        suffix, writer_class = (".nii.gz", NibabelWriter) if self.spatial_dims == 3 else (".png", PILWriter)
        # A picture holds class indices as they are, not stretched to the range of gray values.
        settings = {} if self.spatial_dims == 3 else {"scale": None}
        writer = writer_class(output_dtype=np.uint8, **settings)
        writer.set_data_array(segmentation, channel_dim=0)
        # Where transforms were not inverted, this resamples to the original geometry.
        writer.set_metadata(segmentation.meta, resample=True)
        path = stem.with_name(f"{stem.name}_seg{suffix}")
        if self.spatial_dims == 3:
            meta = segmentation.meta
            # The affine after the inverse of a flip may be off by its last bit.
            affine = meta.get("original_affine", writer.affine)
            array, geometry = np.asarray(writer.data_obj, dtype=np.uint8), meta.get("nifti_geometry", "")
            write_volume(array, affine, path, geometry, announce=announce)
            if meta.get("nifti_geometry") and forms_differ(geometry_header(meta["nifti_geometry"])):
                logger.warning("%s: %s", name, FORMS_DIFFER)
            return
        with write_atomically(path, announce=announce) as temporary:
            writer.write(str(temporary))


def write_volume(
    array: NDArray[Any], affine: Any, path: Path, geometry: str = "", *, announce: Callable[[], None] | None = None
) -> None:
    """Writes an array as NIfTI in the place of the image it was made of.

    Args:
        array: Values of the voxels, ``(H, W[, D])``.
        affine: Affine from voxels to mm, ``(3, 3)`` or ``(4, 4)``; not used with ``geometry``.
        path: Path of the file.
        geometry: ``nifti_geometry`` of the image's metadata; empty, the default, where the image was no NIfTI.
        announce: Function that is called before the file appears, see :func:`~..runtime.files.write_atomically`.
            Default none.

    Raises:
        OutputError: When the file cannot be written.
    """
    image = nifti_image(array, np.asarray(to_affine_nd(3, np.asarray(affine, dtype=np.float64))), geometry)
    with write_atomically(path, announce=announce) as temporary:
        nib.save(image, temporary)
