"""Builds archives of bundles: each carries the shared package, so that it needs nothing else where it is unpacked."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path

from ..errors import MissingDataError
from ..runtime.bundle_folders import bundle_folders
from ..runtime.files import write_atomically
from .manifest import NAME, Manifest
from .verify import read_archive

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parents[1]
FIXED_TIME = (1980, 1, 1, 0, 0, 0)
"""Time of every file in an archive, so that the same input gives the same bytes."""

LEFT_OUT = ("__pycache__", "output")

TOOL = "bundle_tool.pyz"
TOOL_FILES = (
    "__init__.py",
    "errors.py",
    "runtime/bank_rules.py",
    "runtime/__init__.py",
    "runtime/bundle_folders.py",
    "runtime/conformal.py",
    "runtime/files.py",
    "runtime/hashing.py",
    "runtime/interrupts.py",
    "archive/*.py",
)
"""What of the shared package the tool consists of: nothing that needs more than the standard library."""

TOOL_MAIN = b"""import sys

if sys.version_info < (3, 11):
    sys.exit("error: bundle_tool needs Python 3.11 or later")
from common.archive.tool import main

sys.exit(main())
"""


def archive_files(bundle: Path) -> dict[str, Path]:
    """Returns the files of a bundle that its archive holds: path below the bundle's folder -> file."""
    own = {path.relative_to(bundle).as_posix(): path for path in _files(bundle)}
    shared = {f"scripts/common/{path.relative_to(PACKAGE).as_posix()}": path for path in _files(PACKAGE)}
    return dict(sorted((own | shared).items()))


def build_archive(bundle: Path, folder: Path) -> Path:
    """Writes ``<bundle>_v<version>.zip`` into ``folder`` and returns it; the same input gives the same bytes.

    Raises:
        MissingDataError: When the bundle has no ``metadata.json``.
        ArchiveError: When the bundle is incomplete or its bank belongs to other weights: nobody could install it.
        OutputError: When the archive cannot be written.
    """
    described = bundle / "configs" / "metadata.json"
    if not described.is_file():
        raise MissingDataError(f"{bundle} is no bundle: it has no configs/metadata.json")
    metadata = json.loads(described.read_text(encoding="utf-8"))
    files = {name: path.read_bytes() for name, path in archive_files(bundle).items()}
    manifest = Manifest.of(bundle.name, metadata, files)
    files[NAME] = manifest.to_json()
    target = folder / f"{bundle.name}_v{manifest.version}.zip"
    with write_atomically(target) as temporary:
        temporary.write_bytes(_zip({f"{bundle.name}/{name}": content for name, content in files.items()}))
        read_archive(str(temporary), ignore_versions=True)
    return target


def build_tool(folder: Path) -> Path:
    """Writes ``bundle_tool.pyz``, which checks and installs archives, into ``folder`` and returns it.

    Hospitals obtain it apart from the archives, since an archive cannot vouch for itself.

    Raises:
        OutputError: When it cannot be written.
    """
    paths = sorted(path for pattern in TOOL_FILES for path in PACKAGE.glob(pattern))
    files = {f"common/{path.relative_to(PACKAGE).as_posix()}": path.read_bytes() for path in paths}
    target = folder / TOOL
    with write_atomically(target) as temporary:
        temporary.write_bytes(b"#!/usr/bin/env python3\n" + _zip({"__main__.py": TOOL_MAIN} | files))
    target.chmod(0o755)
    return target


def build_archives(bundles: str | None = None, into: str = "dist") -> None:
    """Writes an archive of every bundle, the tool that checks and installs them, and ``SHA256SUMS``.

    Args:
        bundles: Folder of the bundles; those of its folders that hold ``configs`` are built. By default those that came
            with this software.
        into: Folder that the archives are written to; ``dist`` by default.

    Example:
        trustseg zips -o dist

    Raises:
        MissingDataError: When there is no bundle in ``bundles``.
    """
    parent = bundle_folders()[-1] if bundles is None else Path(bundles)
    folders = sorted(path.parent for path in parent.glob("*/configs") if path.is_dir())
    if not folders:
        raise MissingDataError(f"{parent} holds no bundle; bundles are folders with configs/metadata.json: set bundles")
    made = [*(build_archive(folder, Path(into)) for folder in folders), build_tool(Path(into))]
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in made]
    with write_atomically(Path(into) / "SHA256SUMS") as temporary:
        temporary.write_text("".join(sums), encoding="utf-8")
    for path in made:
        logger.info("%s (%.1f MB)", path, path.stat().st_size / 1e6)


def _zip(files: Mapping[str, bytes]) -> bytes:
    """A zip file whose bytes depend on names and contents alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, FIXED_TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=9)
    return buffer.getvalue()


def _files(folder: Path) -> list[Path]:
    """All files of a folder except what running leaves behind."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in files if not set(path.relative_to(folder).parts) & set(LEFT_OUT)]
