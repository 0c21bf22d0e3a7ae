"""The page of what was tried is that of the tests."""

import pytest

from tests.reliability import PAGE, TOPICS, page, tables

MARKED = """
import pytest


@pytest.mark.parametrize("x", [1])
@pytest.mark.tried({topic!r}, "a", "b " "c")
def test_it(x):
    pass
"""


def test_page_is_written_from_the_tests():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.reliability"


def test_rows_tell_what_marks_say(tmp_path):
    tests = tmp_path / "tests"
    tests.mkdir()
    for number, topic in enumerate(TOPICS):
        (tests / f"test_{number}.py").write_text(MARKED.format(topic=topic))
    text = tables(tests)
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(TOPICS)
    assert '| a | b c | [test](../tests/test_0.py "test_it") |\n' in text
    (tests / "test_0.py").write_text(MARKED.format(topic="Other"))
    with pytest.raises(ValueError, match=f"'Other', '{TOPICS[0]}'"):
        tables(tests)
