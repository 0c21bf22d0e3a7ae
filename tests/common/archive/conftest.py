"""A sound archive of the smallest bundle, what it holds, and how one that was tampered with must fare."""

import json
import zipfile
from hashlib import sha256

import pytest

from common.archive import build, build_archive, install, verify
from common.archive.build import _zip
from common.errors import BundleError


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of a shared package of one file, which is what archives get in these tests."""
    folder = tmp_path / "package" / "common"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(build, "PACKAGE", folder)
    return folder


@pytest.fixture
def archive(package, make_bundle, tmp_path):
    """The path of a sound archive."""
    return str(build_archive(make_bundle(), tmp_path / "dist"))


@pytest.fixture
def files(archive):
    """What a sound archive holds: name in the archive -> content."""
    with zipfile.ZipFile(archive) as content:
        return {name: content.read(name) for name in content.namelist()}


@pytest.fixture
def sealed():
    """Makes an archive whose manifest agrees with its files, as a careful attacker would."""

    def seal(files):
        manifest = json.loads(files["organ/manifest.json"])
        own = {name: content for name, content in files.items() if name != "organ/manifest.json"}
        manifest["files"] = {name.removeprefix("organ/"): sha256(content).hexdigest() for name, content in own.items()}
        return _zip(own | {"organ/manifest.json": json.dumps(manifest).encode()})

    return seal


@pytest.fixture
def refuse(tmp_path):
    """Installs an archive that must be refused, and returns the one line that says why."""

    def start(content):
        file = tmp_path / "received" / "organ.zip"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        with pytest.raises(BundleError) as verified:
            verify(str(file), ignore_versions=True)
        with pytest.raises(BundleError) as caught:
            install(str(file), str(tmp_path / "deep" / "models"), ignore_versions=True)
        assert str(verified.value) == str(caught.value)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before, "nothing is left behind"
        assert "\n" not in str(caught.value)
        assert "organ.zip" in str(caught.value)
        return str(caught.value)

    return start
