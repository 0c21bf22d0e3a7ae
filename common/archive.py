"""Archives of bundles: each carries the shared package, so that nothing else is needed where it is unpacked."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from pathlib import Path

from .errors import MissingDataError
from .files import write_atomically

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent
FIXED_TIME = (1980, 1, 1, 0, 0, 0)
"""Time of every file in an archive, so that the same input gives the same bytes."""

LEFT_OUT = ("__pycache__", "output")


def archive_files(bundle: Path) -> dict[str, Path]:
    """Returns what an archive of a bundle holds, below one folder of its name: name in the archive -> file."""
    own = {f"{bundle.name}/{path.relative_to(bundle).as_posix()}": path for path in _files(bundle)}
    shared = {f"{bundle.name}/scripts/common/{path.relative_to(PACKAGE).as_posix()}": path for path in _files(PACKAGE)}
    return dict(sorted((own | shared).items()))


def build_archive(bundle: Path, folder: Path) -> Path:
    """Writes ``<bundle>_v<version>.zip`` into ``folder`` and returns it; the same input gives the same bytes.

    Raises:
        MissingDataError: when the bundle has no ``metadata.json``.
        OutputError: when the archive cannot be written.
    """
    metadata = bundle / "configs" / "metadata.json"
    if not metadata.is_file():
        raise MissingDataError(f"{bundle} is no bundle: it has no configs/metadata.json")
    version = json.loads(metadata.read_text(encoding="utf-8"))["version"]
    target = folder / f"{bundle.name}_v{version}.zip"
    with write_atomically(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, path in archive_files(bundle).items():
            entry = zipfile.ZipInfo(name, FIXED_TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, compresslevel=9)
    return target


def build_archives(bundles: str = "bundles", into: str = "dist") -> None:
    """Writes an archive of every bundle, and ``SHA256SUMS``.

    Args:
        bundles: folder of the bundles.
        into: folder of the archives.
    """
    folders = sorted(path for path in Path(bundles).iterdir() if (path / "configs").is_dir())
    archives = [build_archive(folder, Path(into)) for folder in folders]
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in archives]
    with write_atomically(Path(into) / "SHA256SUMS") as temporary:
        temporary.write_text("".join(sums), encoding="utf-8")
    for path in archives:
        logger.info("%s (%.1f MB)", path, path.stat().st_size / 1e6)


def _files(folder: Path) -> list[Path]:
    """All files of a folder except what running leaves behind."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in files if not set(path.relative_to(folder).parts) & set(LEFT_OUT)]
