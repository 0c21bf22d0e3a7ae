"""What is packed: which files of a bundle and of the shared package, with which manifest, always the same bytes."""

import hashlib
import json
import os
import re
import zipfile

import pytest

from common.archive import build, build_archive, build_archives, read_archive
from common.archive.build import archive_files
from common.errors import ArchiveError, MissingDataError, OutputError

OWN = [
    "LICENSE",
    "configs/evaluate.json",
    "configs/inference.json",
    "configs/logging.conf",
    "configs/metadata.json",
    "configs/multi_gpu_train.json",
    "configs/train.json",
    "docs/README.md",
    "docs/data_license.txt",
    "models/model.pt",
    "models/signature_bank.npz",
    "scripts/__init__.py",
]
CONTENT = [*OWN, "scripts/common/__init__.py", "scripts/common/data/cases.py"]


@pytest.fixture(autouse=True)
def _larger_package(package):
    """A module in a folder of the shared package, and what running leaves behind."""
    for path in ("data/cases.py", "__pycache__/x.pyc", "data/__pycache__/y.pyc"):
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text(path)


def test_archive_holds_bundle_shared_package_and_manifest_below_one_folder(make_bundle, tmp_path):
    path = build_archive(make_bundle(), tmp_path / "dist")
    assert path == tmp_path / "dist" / "organ_v1.2.3.zip"
    with zipfile.ZipFile(path) as content:
        assert content.testzip() is None
        assert content.namelist() == sorted(f"organ/{name}" for name in [*CONTENT, "manifest.json"])
        assert content.read("organ/scripts/common/data/cases.py") == b"data/cases.py"


def test_manifest_tells_digests_and_versions(make_bundle, tmp_path):
    bundle = make_bundle()
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    metadata |= {"required_packages_version": {"scipy": "1.17.1"}, "monailabel_packages_version": {"numpy": "1.26.4"}}
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata))
    with zipfile.ZipFile(build_archive(bundle, tmp_path)) as content:
        manifest = json.loads(content.read("organ/manifest.json"))
        files = {name: hashlib.sha256(content.read(f"organ/{name}")).hexdigest() for name in CONTENT}
    requires = {"monai": ["1.6.1"], "numpy": ["2.4.6", "1.26.4"], "scipy": ["1.17.1"], "torch": ["2.13.0"]}
    assert manifest == {"format": 1, "name": "organ", "version": "1.2.3", "requires": requires, "files": files}


def test_folder_named_output_above_the_bundle_leaves_nothing_out(make_bundle, tmp_path):
    assert sorted(archive_files(make_bundle(where=tmp_path / "output"))) == CONTENT


def test_same_input_gives_the_same_bytes(make_bundle, tmp_path):
    first, second = (make_bundle(where=tmp_path / place) for place in ("a", "b"))
    # Neither times nor permissions of the files count.
    for number, path in enumerate(path for path in sorted(second.rglob("*")) if path.is_file()):
        path.chmod(0o600)
        os.utime(path, (10**9 + number, 10**9 + number))
    archives = [build_archive(bundle, tmp_path / "dist" / str(k)) for k, bundle in enumerate((first, second))]
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with zipfile.ZipFile(archives[0]) as content:
        assert {entry.external_attr >> 16 for entry in content.infolist()} == {0o644}
        assert {entry.date_time for entry in content.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_other_content_gives_other_bytes(make_bundle, tmp_path):
    bundle = make_bundle()
    before = build_archive(bundle, tmp_path).read_bytes()
    (bundle / "docs" / "README.md").write_text("others")
    assert build_archive(bundle, tmp_path).read_bytes() != before


def test_folder_without_metadata_is_named(tmp_path):
    before = sorted(tmp_path.rglob("*"))
    text = f"{re.escape(str(tmp_path))} is no bundle: it has no configs/metadata.json"
    with pytest.raises(MissingDataError, match=text):
        build_archive(tmp_path, tmp_path / "dist")
    assert sorted(tmp_path.rglob("*")) == before


def test_metadata_without_versions_are_named(make_bundle, tmp_path):
    with pytest.raises(ArchiveError, match=r"organ/configs/metadata\.json has no monai_version, pytorch_version"):
        build_archive(make_bundle(**{"configs/metadata.json": '{"version": "1.0.0"}'}), tmp_path / "dist")


def test_bundle_that_nobody_could_install_is_not_packed(make_bundle, tmp_path):
    bundle = make_bundle()
    (bundle / "docs" / "data_license.txt").unlink()
    with pytest.raises(ArchiveError, match=r"has no docs/data_license\.txt; it is no whole bundle"):
        build_archive(bundle, tmp_path / "dist")
    assert list((tmp_path / "dist").iterdir()) == []


def test_archive_that_cannot_be_written_is_named(make_bundle, tmp_path):
    (tmp_path / "dist").touch()
    with pytest.raises(OutputError, match=r"cannot write .*organ_v1\.2\.3\.zip"):
        build_archive(make_bundle(), tmp_path / "dist")


def test_every_bundle_is_packed_with_the_tool_and_the_sums(make_bundle, tmp_path):
    make_bundle("organ")
    make_bundle("another", version="0.1.0")
    (tmp_path / "bundles" / "notes").mkdir()
    build_archives(str(tmp_path / "bundles"), str(tmp_path / "dist"))
    names = ["another_v0.1.0.zip", "organ_v1.2.3.zip", "bundle_tool.pyz"]
    assert sorted(path.name for path in (tmp_path / "dist").iterdir()) == sorted(["SHA256SUMS", *names])
    sums = [f"{hashlib.sha256((tmp_path / 'dist' / name).read_bytes()).hexdigest()}  {name}" for name in names]
    assert (tmp_path / "dist" / "SHA256SUMS").read_text().splitlines() == sums
    assert read_archive(str(tmp_path / "dist" / "another_v0.1.0.zip"), ignore_versions=True).manifest.name == "another"


@pytest.mark.parametrize("name", ["notes", "nowhere"])
def test_folder_without_bundles_is_one_line_and_nothing_is_written(tmp_path, name):
    (tmp_path / "notes" / "reading").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    text = f"{tmp_path / name} holds no bundle; bundles are folders with configs/metadata.json: set bundles"
    with pytest.raises(MissingDataError, match=f"^{re.escape(text)}$"):
        build_archives(str(tmp_path / name), str(tmp_path / "dist"))
    assert sorted(tmp_path.rglob("*")) == before


def test_shared_package_of_this_repository_is_what_is_packed(repository, monkeypatch):
    monkeypatch.undo()
    assert repository / "common" == build.PACKAGE
    names = archive_files(repository / "tests" / "common")
    assert "scripts/common/archive/build.py" in names
    assert "scripts/common/handlers/recorder.py" in names
