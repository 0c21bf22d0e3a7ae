import pytest

from common.errors import BundleError, OutputError
from common.files import write_atomically


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
