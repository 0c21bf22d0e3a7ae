"""Segments and judges scans with a bundle: ``trustseg segment SCANS -o FOLDER``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runtime.bundle_folders import find_bundle
from .running import check_output, run_bundle

logger = logging.getLogger(__name__)


def segment_scans(
    scans: str | Sequence[str], output_dir: str | None = None, bundle: str | None = None, **settings: Any
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
    folder = check_output(output_dir)
    root = find_bundle(bundle)
    logger.info("bundle: %s", root)
    places = {"dataset_dir": scans if isinstance(scans, str) else list(map(str, scans)), "output_dir": folder}
    run_bundle(root, [str(root / "configs" / "inference.json")], places | settings)
    logger.info("to look at: %s", Path(folder, "report.html"))
