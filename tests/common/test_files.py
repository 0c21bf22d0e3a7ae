import json
import math

import numpy as np
import pytest

from common.errors import BundleError, OutputError
from common.runtime.files import check_writable, write_atomically, write_json


def write_half(path, error):
    """Fails with the given error in the middle of writing."""
    with write_atomically(path) as temporary:
        temporary.write_text("half")
        raise error


def test_file_appears_whole_and_folders_are_made(tmp_path):
    path = tmp_path / "new" / "sub" / "a.nii.gz"
    with write_atomically(path) as temporary:
        temporary.write_text("content")
        assert temporary.parent == path.parent
        assert temporary.name.endswith("a.nii.gz")
        assert not path.exists()
    assert path.read_text() == "content"
    assert [file.name for file in path.parent.iterdir()] == ["a.nii.gz"]


def test_old_file_stays_and_nothing_is_left_when_writing_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_half(path, ZeroDivisionError())
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_full_disk_is_an_output_error_with_the_reason(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .*a\.txt: No space left on device") as caught:
        write_half(tmp_path / "a.txt", OSError(28, "No space left on device"))
    assert isinstance(caught.value, BundleError)
    assert isinstance(caught.value, OSError)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_a_file_is_an_output_error(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="cannot write"):
        write_half(tmp_path / "out" / "a.txt", AssertionError("not reached"))


def test_existing_file_is_replaced(tmp_path):
    for text in ("first", "second"):
        with write_atomically(tmp_path / "a.txt") as temporary:
            temporary.write_text(text)
    assert (tmp_path / "a.txt").read_text() == "second"


def test_numbers_that_json_has_not_become_null(tmp_path):
    content = {
        "mean": math.nan,
        "rows": [{"a": math.inf, "b": 1.5}, (-math.inf, 2, np.float64("nan"), np.float64(0.25))],
        "name": "NaN",
        "none": None,
        "flag": True,
        3: {"deep": [[math.nan]]},
    }
    write_json(content, tmp_path / "a.json")

    def refuse(name):
        raise AssertionError(name)

    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse) == {
        "mean": None,
        "rows": [{"a": None, "b": 1.5}, [None, 2, None, 0.25]],
        "name": "NaN",
        "none": None,
        "flag": True,
        "3": {"deep": [[None]]},
    }
    assert math.isnan(content["mean"]), "what is written stays as it was"
    assert (tmp_path / "a.json").read_text().endswith("}\n")


def test_json_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*a\.json"):
        write_json({}, tmp_path / "file" / "a.json")
    with pytest.raises(TypeError):
        write_json({"a": object()}, tmp_path / "b.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folder_is_made_writable_or_named(tmp_path):
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    for path in ("file", "file/sub"):
        with pytest.raises(OutputError, match=rf"cannot write to .*{path}: .*choose another output_dir or model_dir"):
            check_writable(tmp_path / path)
