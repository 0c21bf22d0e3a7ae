"""Writes DICOM output: both files are made in memory, and only then written."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from pydicom.config import disable_value_validation

from ..errors import BundleError, ConfigError, DicomError, ImageError
from ..runtime.files import write_atomically
from .describe import BundleDescription, describe_bundle
from .report import build_report
from .segmentation import build_segmentation
from .series import UNREADABLE, quiet_pydicom
from .source import read_source

HIGHDICOM = "highdicom==0.28.2"
"""What DICOM output needs beside the packages that every bundle needs; it is imported only where it is used."""


def check_dicom_output(
    spatial_dims: int, metadata_file: str | None, class_names: Mapping[str, str] | None = None
) -> BundleDescription:
    """Returns the description of the bundle, after making sure that DICOM output is possible.

    Args:
        spatial_dims: Number of spatial axes; accepted is 3.
        metadata_file: Path of the bundle's ``configs/metadata.json``.
        class_names: Index of a class, as a text -> its name, in place of those of the metadata. Default none.

    Raises:
        ConfigError: When the bundle is 2-D, highdicom is not installed, or the metadata are missing or incomplete.
        MissingDataError: When there is no such file.
    """
    if spatial_dims != 3:
        raise ConfigError(
            f"output_format dicom_seg needs slices in space, spatial_dims is {spatial_dims}; use output_format nifti"
        )
    if metadata_file is None:
        raise ConfigError("output_format dicom_seg needs metadata_file, the bundle's configs/metadata.json")
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"output_format dicom_seg needs the package highdicom, which cannot be imported ({error}); install it with "
            f"'pip install {HIGHDICOM}' or use output_format nifti"
        ) from error
    # Its information names the instances of the study.
    logging.getLogger("highdicom").setLevel(logging.WARNING)
    return describe_bundle(metadata_file, class_names)


def write_dicom(
    segmentation: MetaTensor,
    image: Any,
    result: Mapping[str, Any],
    bundle: BundleDescription,
    stem: Path,
    where: str,
    *,
    mark_segments: bool = True,
) -> None:
    """Writes ``<stem>_seg.dcm``, a DICOM SEG that refers to the source series, and ``<stem>_report.dcm``.

    Args:
        segmentation: Class indices ``(1, columns, rows, slices)`` in the geometry of the input.
        image: Image that was segmented, whose metadata name the files of its series in ``series_files``.
        result: Verdict with ``oodm``, ``threshold`` and ``is_ood``, as ``SpectralVerdictd`` gives it.
        bundle: Description of the bundle that segmented it.
        stem: Path of the files without the end of their names.
        where: Name of the case in messages.
        mark_segments: Whether the labels of segments say so where the scan is out of distribution. Default true.

    Raises:
        ImageError: When the input was no DICOM series, or its headers are not accepted; nothing is written then.
        ConfigError: When the label map holds a class that the bundle's metadata do not name.
        OutputError: When a file cannot be written.
    """
    files = json.loads(getattr(image, "meta", {}).get("series_files", "[]"))
    if not files:
        raise ImageError(
            f"{where}: output_format dicom_seg needs a DICOM series as input, which this scan is not; its segmentation "
            "was written as NIfTI: use output_format nifti"
        )
    labels = segmentation[0].detach().cpu().numpy().astype(np.uint8)
    if labels.max() > len(bundle.segments):
        raise ConfigError(
            f"{where}: the segmentation holds class {labels.max()}, metadata.json names {len(bundle.segments)} in "
            "channel_def; add the names of the others"
        )
    affine = np.asarray(segmentation.affine, dtype=np.float64)
    try:
        # Values of the source go on as they are; pydicom's remarks on invalid ones would quote them.
        quiet_pydicom()
        with disable_value_validation():
            source = read_source(files, where)
            source.check_geometry(labels.shape, affine, where)
            slices = np.ascontiguousarray(labels.T)
            made = build_segmentation(slices, source, bundle, result, mark_segments=mark_segments)
            contents = [_as_bytes(made), _as_bytes(build_report(made, source, bundle, result))]
    except BundleError:
        raise
    except UNREADABLE as error:
        # Neither the text nor the cause, which may quote the patient.
        detail = f" at {error.name}" if isinstance(error, AttributeError) and error.name else ""
        raise DicomError(
            f"{where}: no DICOM file can be made from the headers of the source series ({type(error).__name__}{detail})"
            "; its segmentation was written as NIfTI: export the series again, or use output_format nifti"
        ) from None
    for end, content in zip(("seg", "report"), contents, strict=True):
        with write_atomically(stem.with_name(f"{stem.name}_{end}.dcm")) as temporary:
            temporary.write_bytes(content)


def _as_bytes(document: Any) -> bytes:
    """The file of a DICOM data set."""
    with BytesIO() as buffer:
        document.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()
