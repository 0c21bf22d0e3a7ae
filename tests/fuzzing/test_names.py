"""Whatever a file is called: its scan is segmented inside ``output_dir``, under a name of its own, or it has a line."""

import functools
import hashlib
import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.runtime.sources import VOLUME_SUFFIXES
from tests.fuzzing.edits import whole_runs

LONGEST = 255
ODD = [
    "..", ".", "", " ", "...", "CON", "nul.txt", "COM1", "lpt9.x", "ood_report.csv", "skipped_files.json",
    "gallery.png", "models", "phantoms", "dataset.json", "=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", "\t=1", "a\nb",
    "\r\n", "\x1b[2J", "\x7f", "\u202egpj.exe", "\u200b", "\u2066x", "\ufeff", "\u0085", "\u2028", "\udcff\udc80",
    "%s%n", "{0}", "$(id)", "`id`", "'; --", "\\\\host\\x", "C:", "a:b", "*?", "~", "-rf", "--help", "._a", "x" * 240,
    "\u00e9" * 120,
]  # fmt: skip
"""Names that some program takes for something else."""

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), max_size=40)
BYTES = st.binary(max_size=60).map(lambda raw: os.fsdecode(raw.translate(None, b"/\0")))
STEMS = st.sampled_from(ODD) | TEXTS | BYTES
FORMS = [functools.partial(unicodedata.normalize, form) for form in ("NFC", "NFD", "NFKC", "NFKD")]
ALIKE = (str.upper, str.lower, str.title, str.casefold, *FORMS)
"""Ways to change a text so that some file system or reader takes it for the same."""


@st.composite
def _names(draw):
    """Names of a folder's files, some alike."""
    stems = draw(st.lists(STEMS, min_size=8, max_size=12))
    stems += [draw(st.sampled_from(ALIKE))(stem) for stem in stems[:4]]
    endings = st.sampled_from([".nii.gz", ".nii.gz", ".nii.gz", ".nii", ".NII.GZ", ".mha", ".nrrd", ".txt", ""])
    names = {stem + draw(endings) for stem in stems}
    return sorted(name for name in names if name not in ("", ".", "..") and len(os.fsencode(name)) <= LONGEST)


@whole_runs(25)
@given(names=_names())
@pytest.mark.tried(
    "Anything at random",
    "Any file name, colliding ones among them",
    "Segmented in a folder of its own inside `output_dir`, or a line.",
)
def test_any_name(segment, put_good, reference, names):
    def fill(folder):
        put_good(folder)
        content = (folder / "good_a.nii.gz").read_bytes()
        for name in names:
            path = os.path.join(os.fsencode(folder), os.fsencode(name))
            with open(path, "wb") as file:
                file.write(content)

    results = segment(fill)
    files = {os.fsdecode(name) for name in os.listdir(os.fsencode(results.folder))}
    unused = {item["file"] for item in results.skipped}
    assert unused <= files
    scans = {name for name in files - unused if name.lower().endswith(VOLUME_SUFFIXES)}
    assert scans == files - unused
    assert len(results.rows) == len(scans)
    folders = [path.name for path in results.output.iterdir() if path.is_dir()]
    assert len({unicodedata.normalize("NFKC", name).casefold() for name in folders}) == len(folders)
    assert all(name.isprintable() and len(name.encode()) <= 200 for name in folders)
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in results.masks.values()}
    assert digests == {mask for _row, mask in reference.values()}
