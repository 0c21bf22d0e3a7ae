import hashlib
import json
import os
import re
import zipfile

import pytest

from common import archive
from common.archive import archive_files, build_archive, build_archives
from common.errors import MissingDataError, OutputError


@pytest.fixture
def make_bundle(tmp_path, monkeypatch):
    """Makes a tiny bundle, with all that running leaves behind; the shared package is made as small."""
    package = tmp_path / "package" / "common"
    for path in ("__init__.py", "data/cases.py", "__pycache__/x.pyc", "data/__pycache__/y.pyc"):
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text(path)
    monkeypatch.setattr(archive, "PACKAGE", package)

    def make(name="organ", version="1.2.3", where=tmp_path / "bundles"):
        files = {
            "configs/metadata.json": json.dumps({"version": version}),
            "configs/train.json": "{}",
            "models/model.pt": "weights",
            "scripts/__init__.py": "",
            "scripts/__pycache__/x.pyc": "",
            "output/a/metrics.json": "",
        }
        for path, text in files.items():
            (where / name / path).parent.mkdir(parents=True, exist_ok=True)
            (where / name / path).write_text(text)
        return where / name

    return make


CONTENT = [
    "configs/metadata.json",
    "configs/train.json",
    "models/model.pt",
    "scripts/__init__.py",
    "scripts/common/__init__.py",
    "scripts/common/data/cases.py",
]


def test_archive_holds_bundle_and_shared_package_below_one_folder(make_bundle, tmp_path):
    path = build_archive(make_bundle(), tmp_path / "dist")
    assert path == tmp_path / "dist" / "organ_v1.2.3.zip"
    with zipfile.ZipFile(path) as content:
        assert content.testzip() is None
        assert content.namelist() == [f"organ/{name}" for name in CONTENT]
        assert content.read("organ/scripts/common/data/cases.py") == b"data/cases.py"
        assert content.read("organ/models/model.pt") == b"weights"


def test_what_running_leaves_behind_stays_out(make_bundle):
    names = archive_files(make_bundle())
    assert [name for name in names if "__pycache__" in name or "output" in name] == []


def test_folder_named_output_above_the_bundle_leaves_nothing_out(make_bundle, tmp_path):
    bundle = make_bundle(where=tmp_path / "output")
    assert sorted(archive_files(bundle)) == [f"organ/{name}" for name in CONTENT]


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
    (bundle / "models" / "model.pt").write_text("others")
    assert build_archive(bundle, tmp_path).read_bytes() != before


def test_folder_without_metadata_is_named(tmp_path):
    text = f"{re.escape(str(tmp_path))} is no bundle: it has no configs/metadata.json"
    with pytest.raises(MissingDataError, match=text):
        build_archive(tmp_path, tmp_path / "dist")
    assert list(tmp_path.iterdir()) == []


def test_archive_that_cannot_be_written_is_named(make_bundle, tmp_path):
    (tmp_path / "dist").touch()
    with pytest.raises(OutputError, match=r"cannot write .*organ_v1\.2\.3\.zip"):
        build_archive(make_bundle(), tmp_path / "dist")


def test_every_bundle_is_packed_and_its_sum_written(make_bundle, tmp_path):
    make_bundle("organ")
    make_bundle("another", version="0.1.0")
    (tmp_path / "bundles" / "notes").mkdir()
    build_archives(str(tmp_path / "bundles"), str(tmp_path / "dist"))
    names = ["another_v0.1.0.zip", "organ_v1.2.3.zip"]
    assert sorted(path.name for path in (tmp_path / "dist").iterdir()) == ["SHA256SUMS", *names]
    sums = [f"{hashlib.sha256((tmp_path / 'dist' / name).read_bytes()).hexdigest()}  {name}" for name in names]
    assert (tmp_path / "dist" / "SHA256SUMS").read_text().splitlines() == sums


def test_shared_package_of_this_repository_is_what_is_packed(repository):
    assert repository / "common" == archive.PACKAGE
    names = archive_files(repository / "tests" / "common")
    assert "common/scripts/common/archive.py" in names
    assert "common/scripts/common/handlers/recorder.py" in names
