"""Segments and judges scans with a bundle: ``trustseg segment SCANS -o FOLDER``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .running import run_on_scans, with_weights


def segment_scans(
    scans: str | Sequence[str],
    *,
    output_dir: str,
    bundle: str | None = None,
    model_dir: str | None = None,
    **settings: Any,
) -> None:
    """Segments scans and judges which of them are unlike the training data.

    The folder of the results holds a segmentation for every scan, ``ood_report.csv`` with the verdicts, and
    ``report.html``, which shows them in a browser.

    Args:
        scans: One scan, or a folder of images or of DICOM series, or a list of these.
        output_dir: Folder of the results, ``-o`` for short.
        bundle: Name of the bundle, or its folder. Default ``spectral_ood``; from an archive, the archive's own.
        model_dir: Folder of weights and bank, such as ``models`` below the folder of a training of your own. By default
            that of the bundle.
        **settings: Further options are all keys of the bundle's ``inference.json``, which ``docs/knobs.md``
            of the bundle explains.

    Example:
        trustseg segment scan.nii.gz -o results
        trustseg segment scans -o results -b double_mix
        trustseg segment scans -o results -m my_run/models

    Raises:
        MissingDataError: When there is no such bundle, or no scan.
        ConfigError: When an option is missing, or does not exist.
        CasesFailedError: When a scan failed; the others are complete.
    """
    run_on_scans("inference", scans, output_dir, bundle, with_weights(model_dir, settings))
