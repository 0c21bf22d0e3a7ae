"""Builds, signs, verifies and installs archives of bundles, with the standard library and cryptography alone."""

from .build import build_archive, build_archives, build_tool
from .verify import install, read_archive, sign, verify

__all__ = ["build_archive", "build_archives", "build_tool", "install", "read_archive", "sign", "verify"]
