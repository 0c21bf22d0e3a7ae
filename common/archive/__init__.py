"""Builds, signs, verifies and installs archives of bundles, with the standard library and cryptography alone."""

from .build import build_archive, build_archives, build_tool
from .signature import sign
from .verify import install, read_archive, verify

__all__ = ["build_archive", "build_archives", "build_tool", "install", "read_archive", "sign", "verify"]
