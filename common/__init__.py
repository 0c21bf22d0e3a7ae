"""Holds what the bundles share: methods as pure functions with thin classes over them, and the parts that wire them up.

Importable as ``common`` from the repository's root and as ``scripts.common`` inside a bundle.
"""

__version__ = "0.13.0"
