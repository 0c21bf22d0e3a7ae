"""Files of an archive that are not what their names say."""

import io
import pickle
import re

import numpy as np
import pytest

from common.archive.kinds import check_kind, is_pickle
from common.errors import ArchiveError
from tests.common.archive.hostile import Evil


class Stateful:
    """An object whose pickle of protocol 0 names a class of this module and gives it a state."""

    def __init__(self):
        self.a = 1


def array_of_objects():
    buffer = io.BytesIO()
    np.save(buffer, np.asarray([Evil()], dtype=object))
    return buffer.getvalue()


def zipped_arrays():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.asarray([Evil()], dtype=object))
    return buffer.getvalue()


NAMES = ["docs/split.json", "docs/notes.txt", "docs/table.csv", "docs/more.md", "configs/more.conf", "scripts/a.py"]
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(10) + b"IEND\xaeB`\x82"


def check(name, content, text):
    with pytest.raises(ArchiveError, match=re.escape(text)) as caught:
        check_kind(name, content, "organ.zip")
    assert str(caught.value).startswith(f"organ.zip: {name} is ")


@pytest.mark.parametrize("name", [*NAMES, "docs/gallery.png"])
@pytest.mark.tried("Archives and weights", "Pickles of any protocol under other names", "Refused.")
def test_pickle_by_another_name_is_refused(name):
    for protocol in range(6):
        check(name, pickle.dumps(Evil(), protocol), f"{name} is a pickle, which may hold anything; do not load it")


@pytest.mark.parametrize("name", NAMES)
def test_arrays_by_another_name_are_refused(name):
    for content in (array_of_objects(), zipped_arrays()):
        check(name, content, f"{name} is no text in UTF-8")


@pytest.mark.parametrize("content", [b"\xff", b"a\0b", b"\x1b[2J", b"a\x7f", b"caf\xe9"])
def test_text_that_is_none_is_refused(content):
    check("docs/README.md", content, "is no text in UTF-8")


@pytest.mark.parametrize("content", [b"", b"GIF89a", PICTURE[:-1], PICTURE + b"\0", PICTURE[1:]])
def test_picture_that_is_none_is_refused(content):
    check("docs/a.png", content, "is no PNG picture")


def test_every_file_of_an_archive_is_looked_at(files, sealed, refuse):
    text = refuse(sealed(files | {"organ/docs/split.json": pickle.dumps(Evil(), 0)}))
    assert "organ.zip: docs/split.json is a pickle" in text


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Evil(), 0),
        pickle.dumps(Stateful(), 0),
        b"cos\nsystem\n.",
        b"cos\nsystem\n(Vls\ntR",
        b"(Vls\nios\nsystem\n",
        b"(cos\nsystem\nVls\no",
        b"N0(lp0\n0cos\nsystem\n(Vls\ntRgarbage",
        *(pickle.dumps(None, protocol) for protocol in range(2, 6)),
    ],
)
def test_pickle_that_calls_is_recognized(content):
    assert is_pickle(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"\x80\x06",
        b"case\ncase_0\ncase_1\n",
        b"case\ncase_0\nRing\n",
        b"case\ncase_0\nbeta\n",
        b"case\ncase_0\norgan\n",
        b"image\ncase_0\n",
        b"N. Smith\n",
        b"# Title\n",
        b'"""Module."""\n',
        b"                         Apache License\n",
    ],
)
def test_text_that_starts_like_a_pickle_is_none(content):
    assert not is_pickle(content)


def test_sound_texts_and_pictures_pass():
    check_kind("docs/a.png", PICTURE, "organ.zip")
    check_kind("docs/b.csv", "case\r\ncaf\u00e9\t\u4e2d\f\n".encode(), "organ.zip")
