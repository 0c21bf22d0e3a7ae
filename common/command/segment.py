"""Segments and judges scans with a bundle: ``trustseg segment SCANS -o FOLDER``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .running import run_on_scans


def segment_scans(
    scans: str | Sequence[str], *, output_dir: str | None = None, bundle: str | None = None, **settings: Any
) -> None:
    """Segments scans and judges which of them are unlike the training data.

    The folder of the results holds a segmentation for every scan, ``ood_report.csv`` with the verdicts, and
    ``report.html``, which shows them in a browser.

    Args:
        scans: One scan, or a folder of images or of DICOM series, or a list of these.
        output_dir: Folder of the results, ``-o`` for short.
        bundle: Name of the bundle, or its folder. Default ``spectral_ood``; from an archive, the archive's own.
        **settings: Further options of the bundle's ``inference.json``, such as ``model_dir``.

    Raises:
        MissingDataError: When there is no such bundle, or no scan.
        ConfigError: When an option is missing, or does not exist.
        CasesFailedError: When a scan failed; the others are complete.
    """
    run_on_scans("inference", scans, output_dir, bundle, settings)
