"""Compares versions of packages as numbers: installed ones with those an archive was tested with."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..errors import ArchiveError


def version_numbers(version: str) -> tuple[int, ...]:
    """Returns the leading numbers of a version: ``2.13.0+cpu`` gives ``(2, 13, 0)``.

    Args:
        version: Version as a package tells it, such as ``2.13.0+cpu``.

    Example:
        >>> version_numbers("0.10.1") > version_numbers("0.9")
        True
    """
    return tuple(int(part) for part in re.match(r"\d*(?:\.\d+)*", version)[0].split(".") if part)  # type: ignore[index]


def is_accepted(installed: str, tested: Iterable[str]) -> bool:
    """Returns whether a version will do: of the same major version as a tested one, and not older.

    Args:
        installed: Version that is installed.
        tested: Versions that were tested and work.
    """
    numbers = version_numbers(installed)
    return any(
        numbers[:1] == wanted[:1] and numbers >= wanted[:2] for wanted in (version_numbers(text) for text in tested)
    )


def installed_version(package: str) -> str | None:
    """Returns the version of an installed package, ``None`` where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_versions(
    requires: Mapping[str, tuple[str, ...]],
    where: str,
    *,
    installed: Callable[[str], str | None] = installed_version,
) -> None:
    """Makes sure that the packages an archive needs are installed in versions that will do.

    Args:
        requires: Tested versions of every package, by its name.
        where: Name of the archive in messages.
        installed: Function that returns the installed version of a package, or ``None`` where it is missing. By default
            it asks this Python environment.

    Raises:
        ArchiveError: Naming every package that is missing or of another version, and the command that installs them.
    """
    found = {package: installed(package) for package in requires}
    wrong = [
        package for package, version in found.items() if version is None or not is_accepted(version, requires[package])
    ]
    if wrong:
        told = ", ".join(f"{package} {found[package] or 'is missing'}" for package in wrong)
        wanted = " ".join(f"{package}=={_nearest(found[package], requires[package])}" for package in wrong)
        raise ArchiveError(
            f"{where} was tested with other versions than those of this Python environment: {told}; install them with "
            f"'python -m pip install {wanted}', or repeat with --ignore-versions to check the rest"
        )


def _nearest(version: str | None, tested: Sequence[str]) -> str:
    """The tested version of the same major version as the installed one, else the first."""
    major = version_numbers(version or "")[:1]
    return next((text for text in tested if version_numbers(text)[:1] == major), tested[0])
