"""Trees of DICOM files with something odd in them, and what becomes of them."""

import json
from pathlib import Path

import pytest
from pydicom import dcmread

from common.transforms import CheckImaged, LoadScand


class Export:
    """A tree with one good series, to which a test adds something odd."""

    GOOD, ODD = "1.2.3", "1.2.4"
    POSITIONS = (5, 8, 11, 14)
    # How the elements begin in a file.
    SERIES_TAG, PIXEL_TAG = b"\x20\x00\x0e\x00UI", b"\xe0\x7f\x10\x00OW"

    def __init__(self, root, save_slice, save_object):
        self.root, self.save_slice, self.save_object = root, save_slice, save_object
        self.slices("good", series=self.GOOD)

    def slices(self, folder="odd", positions=POSITIONS, series=ODD, each=(), **tags):
        each = [*each, *[{}] * len(positions)]
        return [
            self.save_slice(self.root / folder / f"{index}", z, series=series, **(tags | each[index]))
            for index, z in enumerate(positions)
        ]

    def put(self, name, kind, **tags):
        return self.save_object(self.root / name, kind, **tags)

    def image(self, name, z=5, series=ODD, **tags):
        return self.save_slice(self.root / name, z, series=series, **tags)

    def link(self, name, target):
        self.root.joinpath(name).symlink_to(target)

    @staticmethod
    def instance(path):
        return dcmread(path).SOPInstanceUID

    @staticmethod
    def shorten(path, number):
        """Takes ``number`` bytes off the end of a file."""
        Path(path).write_bytes(Path(path).read_bytes()[:-number])

    @staticmethod
    def cut_before(path, tag):
        """Ends a file where the element with a tag, given as it is written, begins."""
        content = Path(path).read_bytes()
        assert tag in content
        Path(path).write_bytes(content[: content.index(tag)])


@pytest.fixture
def export(tmp_path, save_slice, save_object):
    return Export(tmp_path / "export", save_slice, save_object)


@pytest.fixture
def listing():
    """Reads the listing of series that a run left in its output folder."""
    return lambda output: json.loads((output / "dicom_series.json").read_text(encoding="utf-8"))


@pytest.fixture
def load():
    """Loads the image of a case, with the checks that inference makes."""
    return lambda case: CheckImaged("image", spatial_dims=3)(LoadScand("image")(case))["image"]
