"""Bundles are found by name, from any folder: shipped, named by the environment, or by their path."""

import pytest

from common.errors import MissingDataError
from common.runtime import bundle_folders
from common.runtime.bundle_folders import find_bundle


@pytest.fixture
def make_bundle(tmp_path, monkeypatch):
    """Makes a folder that is a bundle, in a current folder that is none of the repository."""
    monkeypatch.chdir(tmp_path)

    def make(folder):
        (tmp_path / folder / "configs").mkdir(parents=True)
        (tmp_path / folder / "configs" / "metadata.json").write_text("{}")
        return tmp_path / folder

    return make


def test_shipped_bundles_are_found_from_any_folder(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_bundle() == repository / "bundles" / "spectral_ood"
    assert find_bundle("med_ood") == repository / "bundles" / "med_ood"


def test_folders_of_the_environment_come_first(make_bundle, monkeypatch):
    newer, other = make_bundle("newer/med_ood"), make_bundle("other/mine")
    monkeypatch.setenv("TRUSTSEG_BUNDLES", f"{newer.parent}:{other.parent}")
    assert [find_bundle(name) for name in ("med_ood", "mine")] == [newer, other]
    assert find_bundle("double_mix").parent.name == "bundles"


def test_bundle_may_be_named_by_its_folder(make_bundle):
    assert find_bundle(str(make_bundle("mine"))).name == "mine"
    assert find_bundle("mine", bundles=".").parts == ("mine",)


def test_bundle_of_an_archive_is_the_default_there(make_bundle, monkeypatch):
    mine, sibling = make_bundle("mine"), make_bundle("sibling")
    monkeypatch.setattr(bundle_folders, "own_bundle", lambda: mine)
    assert (find_bundle(), find_bundle("sibling")) == (mine, sibling)


def test_unknown_bundle_is_one_line_with_those_that_there_are(make_bundle):
    folder = make_bundle("folder/mine").parent
    with pytest.raises(MissingDataError, match=r"^there is no bundle 'yours' in .*folder; there: mine; or give"):
        find_bundle("yours", bundles=str(folder))
