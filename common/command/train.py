"""Trains a bundle by a plan made from the data: ``trustseg train DATASET -o FOLDER``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runtime.bundle_folders import find_bundle
from ..runtime.training_end import MINUTES
from .running import check_output, run_bundle


def train_on(
    dataset: str | Sequence[str],
    *,
    output_dir: str,
    bundle: str | None = None,
    minutes: float = MINUTES,
    planned: bool = True,
    **settings: Any,
) -> None:
    """Chooses the settings of a training from its data, and trains by them.

    Weights, signature bank and what they need to be used lie in ``models`` below the folder of the results, the plan in
    ``plan.json``. A training that goes on, with ``--resume``, keeps the plan that lies there.

    Args:
        dataset: Folder in the layout of the Medical Segmentation Decathlon, or a list of them.
        output_dir: Folder of the results, ``-o`` for short.
        bundle: Name of the bundle, or its folder. Default ``spectral_ood``; from an archive, the archive's own.
        minutes: Time of the training on this machine, in minutes, above 0. Default 20.
        planned: Whether settings are chosen from the data; with false, those of ``train.json`` hold. Default true.
        **settings: Further options are all keys of the bundle's ``train.json``, which rule over the plan.

    Example:
        trustseg train data/A -o my_run
        trustseg train data/A -o my_run -b double_mix -m 60
        trustseg train data/A -o my_run --resume True

    Raises:
        MissingDataError: When there is no such data set or bundle.
        ConfigError: When the plan does not fit the bundle, or an option is missing or does not exist.
        ImageError: When an image cannot be read.
        OutputError: When a file cannot be written.
    """
    folder = check_output(output_dir)
    root = find_bundle(bundle)
    data = dataset if isinstance(dataset, str) else list(map(str, dataset))
    places = {"dataset_dir": data, "output_dir": folder, "model_dir": str(Path(folder, "models"))}
    files = [str(root / "configs" / "train.json")]
    run_bundle(root, files, places | {"planned": planned, "minutes": minutes} | settings)
