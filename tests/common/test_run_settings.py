"""What tells the settings of two runs apart."""

import pytest

from common.runtime.run_settings import first_difference


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": 1}, {"a": 2}, ("a", 1, 2)),
        (
            {"a": {"kind": "x", "settings": {"b": [1, 2]}}},
            {"a": {"kind": "x", "settings": {"b": [1]}}},
            ("a#b", [1, 2], [1]),
        ),
        ({"a": True}, {"a": 1}, ("a", True, 1)),
        ({}, {"a": None}, ("a", "not set", None)),
    ],
)
def test_first_difference_is_told_with_both_values(before, now, found):
    assert first_difference(before, now) == found


@pytest.mark.parametrize("off", [None, False])
def test_what_is_new_and_off_may_count_as_absent(off):
    before, now = {"schedule": {"power": 1}}, {"schedule": {"power": 1, "share": off}}
    assert first_difference(before, now, off_counts=False) is None
    # What was there and is not any more, or is on, differs.
    assert first_difference(now, before, off_counts=False) == ("schedule#share", off, "not set")
    assert first_difference({}, {"share": 0.0}, off_counts=False) == ("share", "not set", 0.0)
    assert first_difference({"share": 1}, {"share": off}, off_counts=False) == ("share", 1, off)
