"""Exports the network of a bundle with its weights as TorchScript: ``trustseg export -o FILE``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from monai.bundle import ckpt_export

from ..errors import MissingDataError
from ..runtime.bundle_folders import find_bundle
from .running import bundle_code, check_output

logger = logging.getLogger(__name__)

SOURCES = {"config_file": "inference", "meta_file": "metadata"}
"""Option of ``ckpt_export`` -> config of the bundle that it reads."""


def export_network(output_file: str, bundle: str | None = None, model_dir: str | None = None, **settings: Any) -> None:
    """Writes a network with its weights as TorchScript, with configs and metadata inside, as MONAI's ``ckpt_export``.

    That finds the code of a bundle in the current folder alone.

    Args:
        output_file: TorchScript file to write, ``-o`` for short.
        bundle: Name of the bundle, or its folder. Default ``spectral_ood``; from an archive, the archive's own.
        model_dir: Folder of the weights. By default that of the bundle.
        **settings: Further options are those of MONAI's ``ckpt_export``, such as ``use_trace``.

    Example:
        trustseg export -o network.ts
        trustseg export -o network.ts -m my_run/models

    Raises:
        MissingDataError: When there is no such bundle, or there are no weights.
        ConfigError: When no file is named.
    """
    file = check_output(output_file)
    root = find_bundle(bundle)
    folder = root / "models" if model_dir is None else Path(model_dir)
    if not (folder / "model.pt").is_file():
        raise MissingDataError(f"there are no weights at {folder}/model.pt; give their folder as model_dir")
    configs = {name: str(root / "configs" / f"{kind}.json") for name, kind in SOURCES.items()}
    places = {"filepath": file, "ckpt_file": str(folder / "model.pt"), "model_dir": str(folder)}
    with bundle_code(root):
        ckpt_export(net_id="network_def", **configs, **places, **settings)
    logger.info("written: %s", file)
