import logging

import pytest

from common.errors import ImageError
from common.runtime.sparing import spared_picture, sparing


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError("disk full\nagain"), "OSError: disk full again"), (ImageError("no image"), "no image"),
     (MemoryError(), "MemoryError"), (ZeroDivisionError("x"), "ZeroDivisionError: x")],
)  # fmt: skip
def test_what_fails_is_one_warning(error, reason, caplog):
    with caplog.at_level(logging.WARNING), sparing("gallery.png"):
        raise error
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == f"gallery.png could not be made ({reason}); the run goes on without"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_goes_on(error):
    with pytest.raises(error), sparing("gallery.png"):
        raise error


def test_picture_is_named_by_its_file_however_the_path_is_given(caplog, tmp_path):
    @spared_picture
    def draw(values, path, *, columns=1):
        (path / "never").write_text(str(values[columns]))

    for arguments, keywords in [(([], tmp_path / "a.png"), {}), (([],), {"path": tmp_path / "b.png", "columns": 2})]:
        draw(*arguments, **keywords)
    assert [record.getMessage().split()[0] for record in caplog.records] == ["a.png", "b.png"]
    with pytest.raises(TypeError):
        draw([])
