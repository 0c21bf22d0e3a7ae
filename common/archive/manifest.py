"""Writes and reads the manifest of an archive: what it holds, byte for byte, and what it was made for."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ArchiveError
from .quotes import MAX_REASON, cut, quoted

NAME = "manifest.json"
FORMAT = 1
MAX_SIZE = 2**22

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_PACKAGE = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_VERSION = re.compile(r"\d{1,9}(\.\d{1,9})+")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """What an archive holds.

    Args:
        name: Name of the bundle, which is that of the archive's one folder.
        version: Version of the bundle, such as ``0.2.0``.
        requires: Versions that the bundle was tested with, at least one for each package, by the package's name.
        files: SHA-256 of every file but the manifest itself, in hexadecimal, by its path below the folder.
    """

    name: str
    version: str
    requires: Mapping[str, tuple[str, ...]]
    files: Mapping[str, str]

    @classmethod
    def of(cls, name: str, metadata: Mapping[str, Any], files: Mapping[str, bytes]) -> Manifest:
        """Returns the manifest of a bundle.

        Args:
            name: Name of the bundle.
            metadata: Content of ``configs/metadata.json``.
            files: Content of every file by its path below the bundle's folder.

        Raises:
            ArchiveError: When the metadata lack the version of the bundle or of MONAI, torch or numpy.
        """
        own = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
        missing = [key for key in ("version", *own.values()) if key not in metadata]
        if missing:
            raise ArchiveError(f"{name}/configs/metadata.json has no {', '.join(missing)}; add it")
        tested = {package: metadata[key] for package, key in own.items()} | metadata.get(
            "required_packages_version", {}
        )
        # MONAI Label runs in an environment of its own, with older versions of some packages.
        others = metadata.get("monailabel_packages_version", {})
        requires = {
            package: tuple(dict.fromkeys([version, others.get(package, version)]))
            for package, version in tested.items()
        }
        digests = {path: hashlib.sha256(content).hexdigest() for path, content in sorted(files.items())}
        return cls(name, metadata["version"], dict(sorted(requires.items())), digests)

    def to_json(self) -> bytes:
        """Returns the manifest as a file; the same manifest gives the same bytes."""
        return (json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, where: str) -> Manifest:
        """Returns the manifest that a file holds.

        Args:
            content: Bytes of the file, at most 4 MiB.
            where: Name of the archive in messages.

        Raises:
            ArchiveError: When it is no manifest of this format.
        """
        try:
            if len(content) > MAX_SIZE:
                raise ValueError("it is too large")
            read = json.loads(content.decode("utf-8"), object_pairs_hook=_without_repetition)
            if read.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            requires = {package: tuple(versions) for package, versions in read.pop("requires").items()}
            manifest = cls(requires=requires, **read)
            versions = [manifest.version, *(version for tested in requires.values() for version in tested)]
            checks = [(_NAME, manifest.name), *((_VERSION, text) for text in versions)]
            # Names of packages end up in a command that a message suggests.
            checks += [(_PACKAGE, package) for package in requires]
            checks += [(_DIGEST, digest) for digest in manifest.files.values()]
            wrong = [text for pattern, text in checks if not pattern.fullmatch(text)]
            if wrong or not all(requires.values()):
                raise ValueError(f"{quoted(wrong[:1])} is not accepted")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArchiveError(
                f"{where}: {NAME} is no manifest ({cut(str(error), MAX_REASON)}); get the archive again"
            ) from error
        return manifest


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; one that names a key twice would mean different things to different readers."""
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key is there twice")
    return content
