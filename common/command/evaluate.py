"""Measures a bundle on labeled scans: ``trustseg evaluate DATASET -o FOLDER``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .running import run_on_scans, with_weights


def evaluate_on(
    dataset: str | Sequence[str],
    *,
    output_dir: str,
    bundle: str | None = None,
    model_dir: str | None = None,
    **settings: Any,
) -> None:
    """Measures segmentations of labeled scans, and how well verdicts tell other scans from them.

    The folder of the results holds ``metrics.json``, a table of all cases, figures, and ``report.html``, which shows
    them in a browser.

    Args:
        dataset: Folder in the layout of the Medical Segmentation Decathlon, or a list of them.
        output_dir: Folder of the results, ``-o`` for short.
        bundle: Name of the bundle, or its folder. Default ``spectral_ood``; from an archive, the archive's own.
        model_dir: Folder of weights and bank, such as ``models`` below the folder of a training of your own. By default
            that of the bundle.
        **settings: Further options are all keys of the bundle's ``evaluate.json``, such as ``ood_dir`` for scans out of
            distribution, and ``split_file`` for the part that training has not seen.

    Example:
        trustseg evaluate data/A -o evaluation --ood_dir data/C
        trustseg evaluate data/A -o evaluation -m my_run/models --split_file my_run/split.json

    Raises:
        MissingDataError: When there is no such bundle or data set.
        ConfigError: When an option is missing, or does not exist.
        CasesFailedError: When a scan failed; the others are complete.
    """
    run_on_scans("evaluate", dataset, output_dir, bundle, with_weights(model_dir, settings))
