"""Versions of packages: which of them fit those that a bundle was tested with."""

import pytest

from common.archive import build_archive, install, verify
from common.archive.versions import check_versions, is_accepted, version_numbers
from common.errors import ArchiveError


@pytest.mark.parametrize(
    ("installed", "tested", "accepted"),
    [
        ("2.4.6", ["2.4.6"], True),
        ("2.5.0", ["2.4.6"], True),
        ("2.4.1", ["2.4.6"], True),
        ("2.10.0", ["2.9.1"], True),
        ("2.3.9", ["2.4.6"], False),
        ("3.0.0", ["2.4.6"], False),
        ("1.26.4", ["2.4.6"], False),
        ("1.26.4", ["2.4.6", "1.26.4"], True),
        ("2.13.0+cpu", ["2.13.0"], True),
        ("2.13.0a0+git", ["2.13.0"], True),
        ("unknown", ["1.0"], False),
    ],
)
def test_version_of_the_same_major_and_not_older_is_accepted(installed, tested, accepted):
    assert is_accepted(installed, tested) is accepted


def test_versions_are_compared_as_numbers():
    assert version_numbers("0.10") > version_numbers("0.9.1")


def test_every_package_that_does_not_fit_is_named():
    installed = {"torch": "2.13.0+cpu", "monai": "1.5.2", "numpy": None}
    requires = {"torch": ("2.13.0",), "monai": ("1.6.1",), "numpy": ("2.4.6", "1.26.4")}
    with pytest.raises(ArchiveError) as caught:
        check_versions(requires, "organ.zip", installed=installed.get)
    assert "monai 1.5.2, numpy is missing; install them with 'python -m pip install monai==1.6.1 numpy==2.4.6'" in str(
        caught.value
    )
    assert "torch" not in str(caught.value)
    check_versions({"torch": ("2.13.0",)}, "organ.zip", installed=installed.get)


def test_versions_of_this_environment_are_read(archive, tmp_path, make_bundle):
    verify(archive)
    bundle = make_bundle("strange", where=tmp_path / "more")
    described = bundle / "configs" / "metadata.json"
    described.write_text(described.read_text().replace("2.13.0", "99.0"))
    strange = str(build_archive(bundle, tmp_path))
    with pytest.raises(ArchiveError, match=r"tested with other versions .*: torch 2\.13\.0"):
        verify(strange)
    verify(strange, ignore_versions=True)
    with pytest.raises(ArchiveError, match="tested with other versions"):
        install(strange, str(tmp_path / "models"))
    assert not (tmp_path / "models").exists()
    install(strange, str(tmp_path / "models"), ignore_versions=True)
    assert len(list((tmp_path / "models").iterdir())) == 1


def test_suggested_version_is_of_the_major_version_at_hand():
    with pytest.raises(ArchiveError, match=r"numpy==1\.26\.4'"):
        check_versions({"numpy": ("2.4.6", "1.26.4")}, "organ.zip", installed={"numpy": "1.24.0"}.get)
