"""Names what ``pip install .`` installs: the shared package and the bundles, side by side as in the repository.

Below ``trustseg``, so that no other package called ``common`` gets in the way. A bundle finds the shared package two
folders above itself, here as in a checkout.
"""

from pathlib import Path

from setuptools import find_namespace_packages, setup

SHARED = find_namespace_packages(include=["common", "common.*"])
NEEDED, _, _ = Path("requirements.txt").read_text(encoding="utf-8").partition("# Tools")

setup(
    install_requires=[line for line in NEEDED.splitlines() if line and not line.startswith("#")],
    packages=[f"trustseg.{name}" for name in (*SHARED, "bundles")],
    package_dir={"trustseg.common": "common", "trustseg.bundles": "bundles"},
    package_data={
        "trustseg.common": ["**/*.md", "**/*.png"],
        "trustseg.bundles": [
            "*.json",
            *(f"*/{kind}/**/*" for kind in ("configs", "docs", "models", "scripts")),
            "*/LICENSE",
        ],
    },
    exclude_package_data={"trustseg.bundles": ["**/__pycache__/*"]},
)
