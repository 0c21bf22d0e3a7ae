"""Finds bundles by their names: in a checkout, in an installed package and in an archive, from any folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..errors import MissingDataError

FOLDERS_VARIABLE = "TRUSTSEG_BUNDLES"
"""Environment variable of further folders of bundles, which come first, separated as in ``PATH``."""

DEFAULT_BUNDLE = "spectral_ood"

_PACKAGE = Path(__file__).resolve().parents[1]


def own_bundle() -> Path | None:
    """Returns the folder of the bundle as whose ``scripts.common`` this package was imported; ``None`` for none."""
    scripts = sys.modules.get("scripts") if __name__.startswith("scripts.") else None
    return None if scripts is None else Path(scripts.bundle_root())


def bundle_folders() -> list[Path]:
    """Returns the folders that may hold bundles, those of the environment first."""
    given = [Path(folder) for folder in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if folder]
    own = own_bundle()
    # Beside the package in a checkout and where it is installed; an archive is unpacked beside others.
    shipped = _PACKAGE.parent / "bundles" if own is None else own.parent
    return [*given, shipped]


def is_bundle(folder: Path) -> bool:
    """Returns whether a folder holds the configs of a bundle."""
    return (folder / "configs" / "metadata.json").is_file()


def find_bundle(bundle: str | None = None, bundles: str | None = None) -> Path:
    """Returns the folder of a bundle.

    Args:
        bundle: Name of the bundle, or its folder. With ``None``, the default, the bundle that this code belongs to, or
            ``spectral_ood`` where it belongs to several.
        bundles: Folder of bundles to search by name. With ``None``, the default, those that the environment variable
            ``TRUSTSEG_BUNDLES`` names, then those that this software came with.

    Raises:
        MissingDataError: When there is no such bundle, naming those that there are.
    """
    own = own_bundle()
    if bundle is None and own is not None:
        return own
    name = DEFAULT_BUNDLE if bundle is None else str(bundle)
    folders = bundle_folders() if bundles is None else [Path(bundles)]
    places = [folder / name for folder in folders]
    places += [Path(name)] if bundle is not None else []
    found = next((place for place in places if is_bundle(place)), None)
    if found is None:
        where = ", ".join(str(folder) for folder in folders)
        paths = sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir())
        known = ", ".join(path.name for path in paths if is_bundle(path)) or "none"
        raise MissingDataError(f"there is no bundle {name!r} in {where}; there: {known}; or give the folder of one")
    return found
