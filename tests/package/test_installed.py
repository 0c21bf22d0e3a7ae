"""What ``pip install .`` installs is all that an archive of the bundles holds, and a command."""

import runpy

import pytest
import setuptools

from common.archive.build import archive_files


@pytest.fixture
def arguments(repository, monkeypatch):
    """What ``setup.py`` tells setuptools."""
    told = {}
    monkeypatch.chdir(repository)
    monkeypatch.setattr(setuptools, "setup", told.update)
    runpy.run_path("setup.py")
    return told


def test_every_file_of_package_and_bundles_is_installed(arguments, repository):
    code = {name.removeprefix("trustseg.").replace(".", "/") for name in arguments["packages"]}
    installed = {file for folder in code for file in (repository / folder).glob("*.py")}
    for package, patterns in arguments["package_data"].items():
        folder = repository / arguments["package_dir"][package]
        installed |= {file for pattern in patterns for file in folder.glob(pattern)}
    bundles = sorted(path.parent for path in (repository / "bundles").glob("*/configs"))
    wanted = {file for bundle in bundles for file in archive_files(bundle).values()}
    assert wanted - installed == set()


def test_packages_needed_are_those_of_requirements_without_the_tools(arguments):
    needed = [line.split("==")[0] for line in arguments["install_requires"]]
    assert {"torch", "monai", "fire"} <= set(needed)
    assert not {"pytest", "ruff", "mypy"} & set(needed)
