"""How configs are written."""

import json

import pytest

from common.errors import ConfigError
from common.runtime.json_format import WIDTH, format_configs, format_json


@pytest.mark.parametrize(
    "content", [{}, [], None, "ä", {"a": []}, {"a": {"b": [1, {"c": [None, True, 1e-05]}]}, "d": "@a"}]
)
def test_content_stays(content):
    assert json.loads(format_json(content)) == content


def test_what_fits_stands_on_one_line():
    assert format_json({"a": [1, 2], "b": {"c": None}}) == '{\n  "a": [1, 2],\n  "b": {"c": null}\n}'


@pytest.mark.parametrize("comma", [True, False])
def test_a_line_is_full_at_its_width_with_the_comma(comma):
    """A list of one text of which every line needs the room of a comma, whether there is one or not."""
    fixed = len('  "a": [""],')
    for length, lines in ((WIDTH - fixed, 1), (WIDTH - fixed + 1, 3)):
        content = {"a": ["x" * length]} | ({"b": 1} if comma else {})
        text = format_json(content)
        assert len(text.splitlines()) == lines + 2 + comma
        assert max(map(len, text.splitlines())) <= WIDTH


def test_configs_are_formatted_and_checked(tmp_path):
    file = tmp_path / "organ" / "configs" / "train.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"a":\n1}')
    with pytest.raises(ConfigError, match=r"train\.json: not formatted; run 'make format'$"):
        format_configs(str(tmp_path), check=True)
    assert file.read_text() == '{"a":\n1}'
    format_configs(str(tmp_path))
    assert file.read_text() == '{\n  "a": 1\n}\n'
    format_configs(str(tmp_path), check=True)


def test_configs_of_the_bundles_are_formatted(repository):
    bundles = repository / "bundles"
    assert list(bundles.glob("*/configs/train.json")), "there is something to check"
    format_configs(str(bundles), check=True)
