import json
import resource

import pytest

from common.errors import OutputError
from common.runtime.growing import GrowingFile


@pytest.fixture
def limited():
    """Limits the size of the files that this process writes, as a disk that becomes full does, until the test ends."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def listing(tmp_path):
    return GrowingFile(tmp_path / "list.json", head="[\n", separator=",\n", tail="\n]\n")


@pytest.mark.parametrize("start", [[], ["1"], ["1", "2"]])
def test_file_is_whole_after_every_entry(listing, start):
    listing.write(start)
    entries = list(start)
    for entry in ('"a"', '"M\udcfcller \u00e4"', "[3]"):
        assert listing.append(entry)
        entries.append(entry)
        text = listing.path.read_text(encoding="utf-8")
        assert text == "[\n" + ",\n".join(entries).encode("utf-8", "backslashreplace").decode() + "\n]\n"
    assert json.loads(text.replace("\\u", "\\\\u"))[-1] == [3]


def test_entry_costs_itself_alone(listing, monkeypatch):
    """No byte of the earlier entries is read or written again."""
    listing.write([])
    sizes = []
    original = listing._replace_tail
    monkeypatch.setattr(
        listing, "_replace_tail", lambda d, place, content: sizes.append(len(content)) or original(d, place, content)
    )
    for _ in range(1000):
        listing.append('"x"')
    assert set(sizes[1:]) == {len(',\n"x"\n]\n')}
    assert len(json.loads(listing.path.read_text())) == 1000


@pytest.mark.parametrize("room", [0, 1, 3, 9, 12])
@pytest.mark.parametrize("start", [["1"], []])
def test_full_disk_leaves_the_file_as_it_was(listing, limited, room, start):
    listing.write(start)
    before = listing.path.read_bytes()
    limited(len(before) + room)
    with pytest.raises(OutputError, match=r"cannot write .*list\.json: .*; free space or choose another output_dir"):
        listing.append('"an entry that is long"')
    assert listing.path.read_bytes() == before
    limited(len(before) + 100)
    assert listing.append("2")
    assert json.loads(listing.path.read_text()) == [*map(int, start), 2]


def test_file_that_somebody_changed_or_removed_is_not_written_over(listing):
    listing.write(["1"])
    listing.path.write_text("[\n1 \n]\n")
    assert not listing.append("2")
    assert listing.path.read_text() == "[\n1 \n]\n"
    listing.path.unlink()
    assert not listing.append("2")
    assert not listing.path.exists()
    listing.write(["1", "2"])
    assert listing.append("3")


def test_file_that_may_not_be_written_is_named(listing):
    listing.write([])
    listing.path.unlink()
    listing.path.mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*list\.json"):
        listing.append("1")
