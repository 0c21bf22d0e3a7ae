"""The code of this bundle.

In an archive the shared package lies in this folder as ``scripts/common``. In a checkout it lies at the repository's
root, which is then appended to this package's path, so that ``scripts.common`` is the same code in both.
"""

from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]

if not (_ROOT / "scripts" / "common").is_dir():
    __path__.append(str(_ROOT.parents[1]))


def bundle_root() -> str:
    """Returns the folder of this bundle."""
    return str(_ROOT)
