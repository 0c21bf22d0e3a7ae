"""The examples of ``docs/monai_bugs.md`` show what they say with the installed MONAI."""

import re
import runpy
import sys
from pathlib import Path

import monai
import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "monai_bugs.md"
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S))
SHARED = "What the DICOM examples share"
CODE = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
BEGIN = CODE.search(PAGE.read_text(encoding="utf-8"))[1]


@pytest.mark.filterwarnings("ignore")  # whatever MONAI warns of is not what is shown
@pytest.mark.parametrize("title", [title for title in SECTIONS if title != SHARED])
def test_bug_is_still_there(title, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = CODE.findall(SECTIONS[title])
    assert re.search(r"^ *(assert|raise AssertionError)", example, re.M), "it fails where MONAI is mended"
    # Under a name of its own: modules of other examples are not this one's.
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "slices", raising=False)
    (tmp_path / "slices.py").write_text(CODE.findall(SECTIONS[SHARED])[0], encoding="utf-8")
    (tmp_path / "example.py").write_text(BEGIN + example, encoding="utf-8")
    runpy.run_path("example.py")


def test_page_tells_the_version(repository):
    assert f"What is\nsaid of {monai.__version__} was seen" in PAGE.read_text(encoding="utf-8")
    assert f"monai=={monai.__version__}\n" in (repository / "requirements.txt").read_text(encoding="utf-8")
