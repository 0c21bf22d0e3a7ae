"""Archives that contradict their manifest, or have none that is valid: each is refused."""

import json

import pytest

from common.archive.build import _zip


@pytest.mark.parametrize("name", ["configs/train.json", "scripts/__init__.py", "models/model.pt", "docs/README.md"])
def test_changed_file_is_refused(files, refuse, name):
    content = files[f"organ/{name}"]
    assert f"{name} is not the file of the manifest" in refuse(_zip(files | {f"organ/{name}": content + b"#"}))


def test_incomplete_archive_is_refused(files, sealed, refuse):
    without = {name: content for name, content in files.items() if name != "organ/configs/train.json"}
    assert "configs/train.json is missing; the archive is incomplete" in refuse(_zip(without))
    assert "has no configs/train.json; it is no whole bundle" in refuse(sealed(without))
    without = {name: content for name, content in files.items() if name != "organ/manifest.json"}
    assert "has no organ/manifest.json" in refuse(_zip(without))


def manifest_with(files, changes):
    return json.dumps(json.loads(files["organ/manifest.json"]) | changes).encode()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "other"}, "the manifest is of other, the folder is organ"),
        ({"version": "9.9.9"}, "version 1.2.3 in its metadata, 9.9.9 in its manifest"),
        ({"format": 2}, "is no manifest (its format is not 1)"),
        ({"requires": {"torch": []}}, "is no manifest"),
        ({"requires": {"torch": ["newest"]}}, "is no manifest"),
        ({"requires": {"--index-url=x": ["1.0"]}}, "is no manifest"),
        ({"requires": {"torch": ["1." + "9" * 5000]}}, "is no manifest"),
        ({"files": {"a": "b"}}, "is no manifest"),
        ({"files": []}, "is no manifest"),
        ({"more": 1}, "is no manifest"),
    ],
)
def test_manifest_that_contradicts_is_refused(files, refuse, changes, text):
    assert text in refuse(_zip(files | {"organ/manifest.json": manifest_with(files, changes)}))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is no manifest"),
        (b"[]", "is no manifest"),
        (b"\xff", "is no manifest"),
        (b'{"format": 1, "format": 1}', "is no manifest (a key is there twice)"),
        (b"[" * 4000, "is no manifest"),
        (b"[" * 100_000, "it is a bomb"),
    ],
)
def test_manifest_that_is_none_is_refused(files, refuse, content, text):
    assert text in refuse(_zip(files | {"organ/manifest.json": content}))
