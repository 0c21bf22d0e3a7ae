"""Verifies, installs and signs an archive, before anything in it is parsed as a config or run."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ArchiveError, MissingDataError, OutputError
from .bank import bank_weights_digest
from .kinds import check_kind
from .manifest import NAME, Manifest
from .quotes import cut
from .signature import check_signature, write_signature
from .structure import MAX_BYTES, read_files
from .tensors import state_digest
from .versions import check_versions

logger = logging.getLogger(__name__)

REQUIRED = (
    "LICENSE",
    "configs/evaluate.json",
    "configs/inference.json",
    "configs/logging.conf",
    "configs/metadata.json",
    "configs/multi_gpu_train.json",
    "configs/train.json",
    "docs/README.md",
    "docs/data_license.txt",
    "models/model.pt",
    "models/signature_bank.npz",
    "scripts/__init__.py",
    "scripts/common/__init__.py",
)
"""Files without which a bundle cannot do its work."""


@dataclass(frozen=True)
class Archive:
    """An archive that has passed every check, in memory: what was checked is what is unpacked.

    Args:
        manifest: Manifest, which says what the archive holds.
        files: Content of every file, the manifest included, by its path below the bundle's folder.
    """

    manifest: Manifest
    files: Mapping[str, bytes]


def read_archive(file: str, *, public_key: str | None = None, ignore_versions: bool = False) -> Archive:
    """Returns the content of an archive after checking all of it.

    The checks and their order are those of :func:`verify`.

    Args:
        file: Path of the archive.
        public_key: Path of a public key in PEM form; the signature beside the archive must be by its owner. Without
            one, the default, no signature is checked.
        ignore_versions: Whether packages may be missing or of other versions; false by default.

    Raises:
        MissingDataError: When a file does not exist.
        ArchiveError: Naming what is wrong.
        SignatureError: When there is no valid signature.
    """
    content = _content(file)
    # An empty name, as of a shell variable that is not set, must not pass for no wish to check.
    if public_key is not None:
        check_signature(content, str(file), str(public_key))
    archive = _checked(content, Path(file).name)
    if not ignore_versions:
        check_versions(archive.manifest.requires, Path(file).name)
    return archive


def _content(file: str) -> bytes:
    """The bytes of an archive: whatever happens to the file meanwhile, these are checked and used."""
    path = Path(file)
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise MissingDataError(f"archive {file} {what}; give a bundle's .zip file")
    if path.stat().st_size > MAX_BYTES:
        raise ArchiveError(f"{file} has {path.stat().st_size} bytes; an archive has at most {MAX_BYTES}")
    return path.read_bytes()


def _checked(content: bytes, where: str) -> Archive:
    """What an archive of these bytes holds, after every check that depends on nothing but them."""
    named = read_files(content, where)
    top = next(iter(named)).split("/")[0]
    files = {name.removeprefix(f"{top}/"): data for name, data in named.items()}
    manifest = _check_manifest(files, top, where)
    for name, data in files.items():
        check_kind(name, data, where)
    _check_tensors(files, where)
    return Archive(manifest, files)


def verify(file: str, public_key: str | None = None, ignore_versions: bool = False) -> None:
    """Checks an archive and says what was checked.

    The order: signature (with a key), form of the zip file, manifest, digest of every file, required files. Then
    whether every file is what its name says, weights, bank, whether it belongs to the weights, versions of packages.

    Args:
        file: Path of the archive.
        public_key: Path of the public key, in PEM form, of whoever must have signed it. Without one, the default, no
            signature is checked.
        ignore_versions: Whether packages may be missing or of other versions; false by default.

    Example:
        trustseg verify spectral_ood_v0.13.0.zip --public_key public.pem

    Raises:
        MissingDataError: When a file does not exist.
        ArchiveError: Naming what is wrong.
        SignatureError: When there is no valid signature.
    """
    archive = read_archive(file, public_key=public_key, ignore_versions=ignore_versions)
    logger.info("%s", _passed(archive, public_key, ignore_versions))


def sign(file: str, private_key: str) -> None:
    """Checks an archive and writes its signature beside it, as ``<file>.sig``.

    The checks are those of :func:`verify`, but for the signature and for the versions of packages that are installed:
    who signs need not have them. Keys are made with ``openssl genpkey -algorithm ed25519 -out private.pem`` and
    ``openssl pkey -in private.pem -pubout -out public.pem``.

    Args:
        file: Path of the archive.
        private_key: Path of an Ed25519 private key in PEM form, without a passphrase.

    Example:
        trustseg sign spectral_ood_v0.13.0.zip private.pem

    Raises:
        MissingDataError: When a file does not exist.
        ArchiveError: Naming what is wrong with the archive.
        SignatureError: When the key cannot be used.
        OutputError: When the signature cannot be written.
    """
    content = _content(file)
    _checked(content, Path(file).name)
    write_signature(content, str(file), str(private_key))


def install(
    file: str,
    into: str,
    public_key: str | None = None,
    ignore_versions: bool = False,
    folder: str | None = None,
    replace: bool = False,
) -> None:
    """Checks an archive and unpacks it, all of it or nothing.

    Args:
        file: Path of the archive.
        into: Folder in which the bundle's own folder is made.
        public_key: Path of the public key, in PEM form, of whoever must have signed the archive. Without one, the
            default, no signature is checked.
        ignore_versions: Whether packages may be missing or of other versions; false by default.
        folder: Name of the bundle's folder, its own name by default; another lets two versions live side by side.
        replace: Whether a bundle in a folder of that name is replaced, as by a newer version; false by default. The old
            one stays beside it as ``<folder>.old``, with whatever was trained or written in it.

    Example:
        trustseg install spectral_ood_v0.13.0.zip -o bundles --public_key public.pem

    Raises:
        MissingDataError: When a file does not exist.
        ArchiveError: Naming what is wrong with the archive, or that the folder exists.
        OutputError: When the folder cannot be written.
    """
    archive = read_archive(file, public_key=public_key, ignore_versions=ignore_versions)
    name = str(folder or archive.manifest.name)
    if Path(name).name != name or name in (".", ".."):
        raise ArchiveError(f"folder {name!r} is no name of a folder; give one without '/'")
    target = Path(into) / name
    if target.exists() and not replace:
        raise ArchiveError(f"{target} exists; remove it, choose another --folder, or replace it with --replace")
    _unpack(archive, target, _place_of_old(target))
    logger.info("%s\ninstalled as %s", _passed(archive, public_key, ignore_versions), target)


def _passed(archive: Archive, public_key: str | None, ignore_versions: bool) -> str:
    """What was checked, and what was not."""
    manifest = archive.manifest
    signature = (
        f"signed by the owner of {public_key}" if public_key is not None else "signature not checked (no --public-key)"
    )
    versions = "versions not checked" if ignore_versions else "versions fit"
    return (
        f"{manifest.name} {manifest.version}: {len(archive.files)} files are those of the manifest, weights are only "
        f"tensors, the bank belongs to them, {versions}, {signature}"
    )


def _check_manifest(files: Mapping[str, bytes], top: str, where: str) -> Manifest:
    """The manifest, which agrees with every file."""
    if NAME not in files:
        raise ArchiveError(f"{where} has no {top}/{NAME}; it was not made by 'make zips', or is incomplete")
    manifest = Manifest.from_json(files[NAME], where)
    if manifest.name != top:
        raise ArchiveError(
            f"{where}: the manifest is of {cut(manifest.name)}, the folder is {cut(top)}; get the archive again"
        )
    listed, there = manifest.files.keys(), files.keys() - {NAME}
    if listed != there:
        absent, added = sorted(listed - there)[:1], sorted(there - listed)[:1]
        what = f"{cut(absent[0])} is missing" if absent else f"{added[0]} is not in the manifest"
        raise ArchiveError(f"{where}: {what}; the archive is incomplete or was changed: get it again")
    for path, digest in manifest.files.items():
        if hashlib.sha256(files[path]).hexdigest() != digest:
            raise ArchiveError(
                f"{where}: {path} is not the file of the manifest; the archive was changed: get it again"
            )
    lacking = [path for path in REQUIRED if path not in files]
    if lacking:
        raise ArchiveError(f"{where} has no {', '.join(lacking)}; it is no whole bundle")
    try:
        version = json.loads(files["configs/metadata.json"])["version"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ArchiveError(f"{where}: configs/metadata.json tells no version; it is no whole bundle") from error
    if version != manifest.version:
        raise ArchiveError(
            f"{where}: version {cut(str(version))} in its metadata, {cut(manifest.version)} in its manifest"
        )
    return manifest


def _check_tensors(files: Mapping[str, bytes], where: str) -> None:
    """Refuses weights and banks that hold more than numbers, and a bank of other weights."""
    digests = {path: state_digest(files[path], f"{where}: {path}") for path in files if path.endswith(".pt")}
    banks = {path: bank_weights_digest(files[path], f"{where}: {path}") for path in files if path.endswith(".npz")}
    if banks["models/signature_bank.npz"] != digests["models/model.pt"]:
        raise ArchiveError(
            f"{where}: the signature bank was fitted to other weights than models/model.pt; its verdicts would mean "
            "nothing: get an archive whose bank was fitted again"
        )


def _place_of_old(target: Path) -> Path:
    """Where a bundle that is replaced goes; only bundles are replaced, and none that was kept is overwritten."""
    old = target.with_name(f"{target.name}.old")
    if target.exists() and not (target / "configs" / "metadata.json").is_file():
        raise ArchiveError(f"{target} is no bundle, so it is not replaced; choose another --folder")
    if target.exists() and old.exists():
        raise ArchiveError(f"{old} holds the bundle that was replaced before; move or remove it first")
    return old


def _unpack(archive: Archive, target: Path, old: Path) -> None:
    """Writes all files below a temporary folder and renames it; what was there before moves to ``old``."""
    existing = next(parent for parent in (target.parent, *target.parent.parents) if parent.exists())
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    moved = False
    try:
        for path, content in archive.files.items():
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            (temporary / path).write_bytes(content)
        if target.exists():
            os.replace(target, old)
            moved = True
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror or error}; free space or choose another --into"
        ) from error
    finally:
        if moved and not target.exists():
            os.replace(old, target)
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(target.parent, existing)


def _remove_empty(folder: Path, existing: Path) -> None:
    """Removes folders that a failed installation made and left empty."""
    while folder != existing and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
