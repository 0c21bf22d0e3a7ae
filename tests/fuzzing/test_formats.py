"""Whatever happens to the bytes of files that ITK, nibabel or Pillow read: they are read, or refused in one line."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.errors import ImageError
from common.transforms import LoadScand
from tests.fuzzing.edits import EDITS, edited, whole_runs

VOLUMES = ("raw.mha", "packed.mha", "raw.nrrd", "packed.nrrd", "scan.mgz")
PICTURES = ("a.png", "a.jpg", "a.tif", "a.bmp")
VALUES = [
    b"0",
    b"-1",
    b"1e30",
    b"nan",
    b"99999999999",
    b"",
    b"3 3 3",
    b"LOCAL",
    b"MET_DOUBLE",
    b"left-posterior-superior",
]
HEADERS = st.tuples(st.just("value"), st.integers(0, 30), st.sampled_from(VALUES))
"""A value in a header in text: the line, and what stands there."""


def spoiled(content, edits):
    """The bytes after all edits, those of values in the header among them."""
    for edit in edits:
        if edit[0] != "value":
            content = edited(content, [edit])
            continue
        lines = content.split(b"\n")
        number = edit[1] % min(len(lines), 20)
        mark = b"=" if b"=" in lines[number] else b":"
        lines[number] = lines[number].partition(mark)[0] + mark + b" " + edit[2]
        content = b"\n".join(lines)
    return content


@pytest.fixture(scope="module")
def volumes(tmp_path_factory, scan_array):
    """The bytes of one scan in several formats."""
    import itk  # warns while it is imported, which only tests may

    folder, array = tmp_path_factory.mktemp("formats"), scan_array(9)
    for name in VOLUMES[:4]:
        itk.imwrite(itk.image_from_array(array.T.copy()), str(folder / name), compression=name.startswith("packed"))
    nib.save(nib.MGHImage(array, np.eye(4)), folder / "scan.mgz")
    return {name: (folder / name).read_bytes() for name in VOLUMES}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The bytes of one picture in several formats."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 255, (12, 10), dtype=np.uint8)
    for name in PICTURES:
        Image.fromarray(pixels).save(folder / name)
    return {name: (folder / name).read_bytes() for name in PICTURES}


@pytest.mark.tried(
    "Anything at random",
    "Any header and any damage of MetaImage, NRRD and `.mgz`",
    "Segmented, or a row with the reason.",
)
@whole_runs(40)
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(VOLUMES), st.lists(HEADERS | EDITS, min_size=1, max_size=2)), min_size=10, max_size=14
    )
)
def test_any_volume(segment, put_good, assert_good, volumes, changes):
    def fill(folder):
        put_good(folder)
        for number, (name, edits) in enumerate(changes):
            (folder / f"{number:02}_{name}").write_bytes(spoiled(volumes[name], edits))

    results = segment(fill)
    assert_good(results)
    assert len(results.rows) == len(list(results.folder.iterdir()))


@pytest.mark.tried(
    "Anything at random",
    "Any damage of PNG, JPEG, TIFF and BMP",
    "Read, or a row with the reason.",
)
@given(name=st.sampled_from(PICTURES), edits=st.lists(EDITS, min_size=1, max_size=3))
def test_any_picture(pictures, tmp_path, name, edits):
    path = tmp_path / name
    path.write_bytes(edited(pictures[name], edits))
    reason = ""
    try:
        assert LoadScand("image")({"image": str(path), "case": "p1"})["image"].ndim == 3
    except ImageError as error:
        reason = str(error)
    assert reason.isprintable()
    assert "Error" not in reason
