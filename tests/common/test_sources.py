"""Scans whose voxels lie in a second file: read where that is safe, refused where a header names any other file."""

import os
import re

import itk
import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from common.errors import ImageError
from common.runtime.sources import VOLUME_SUFFIXES, check_source, data_file, readable_path
from common.transforms import LoadScand

IMAGE = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
AFFINE = np.array([[0.0, 0.9, 0, 5], [0.7, 0, 0, -3], [0, 0, 1.5, 11], [0, 0, 0, 1]])
NIBABEL = {".nii": nib.Nifti1Image, ".nii.gz": nib.Nifti1Image, ".hdr": nib.Nifti1Pair, ".mgz": nib.MGHImage}
DATA = {".hdr": "scan.img", ".img": "scan.img", ".mhd": "scan.raw", ".nhdr": "scan.raw"}


def write(path):
    """Writes the image with its affine in the format of the path's ending."""
    suffix = next(suffix for suffix in sorted(VOLUME_SUFFIXES, key=len, reverse=True) if str(path).endswith(suffix))
    if suffix in NIBABEL:
        nib.save(NIBABEL[suffix](IMAGE, AFFINE), path)
        return path
    image = itk.image_from_array(np.ascontiguousarray(IMAGE.T))
    lps = np.diag([-1.0, -1, 1, 1]) @ AFFINE
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(lps[:3, :3] / spacing))
    itk.imwrite(image, str(path))
    return path


def load(path):
    return LoadScand("image")({"image": str(path), "case": "x"})["image"]


def assert_refused(path, text):
    """Its reason is one line that names the case."""
    with pytest.raises(ImageError, match=text) as caught:
        load(path)
    assert "case 'x'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
@pytest.mark.tried(
    "Files of a folder",
    "`.hdr`/`.img`, `.mgz`, `.mhd`, `.nhdr`, `.nrrd`",
    "They are read, with the same voxels in the same place.",
)
def test_every_format_gives_the_same_voxels_in_the_same_place(tmp_path, suffix):
    path = write(tmp_path / f"scan{suffix}")
    assert sorted(os.listdir(tmp_path)) == sorted({path.name, DATA.get(suffix, path.name)})
    image = load(path)
    assert_array_equal(image[0], IMAGE)
    assert_allclose(image.affine, AFFINE, atol=1e-6)
    assert data_file(path) == (str(tmp_path / DATA[suffix]) if suffix in DATA else None)


def test_pair_may_be_named_by_its_voxels(tmp_path):
    write(tmp_path / "scan.hdr")
    assert_array_equal(load(tmp_path / "scan.img")[0], IMAGE)
    assert data_file(tmp_path / "scan.img") == str(tmp_path / "scan.img")


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr", ".nii.gz", ".hdr", ".mgz"])
@pytest.mark.parametrize("name", ["a.png", "a.nii", "a.dcm", "a.npy.tif"])
@pytest.mark.tried(
    "Files of a folder",
    "Names such as `a.png.mha`",
    "The last ending alone decides how a file is read.",
)
def test_last_ending_alone_chooses_the_reader(tmp_path, suffix, name):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / f"scan{suffix}")
    for file in list((tmp_path / "in").iterdir()):
        file.rename(file if file.suffix == ".raw" else file.with_name(file.name.replace("scan", name)))
    assert_array_equal(load(tmp_path / "in" / f"{name}{suffix}")[0], IMAGE)


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr", ".nii.gz", ".hdr"])
@pytest.mark.parametrize("name", ["M\udcfcller", "two\nlines", "\x1b[31mred", "\u202egpj"], ids=ascii)
@pytest.mark.tried(
    "Names",
    "Names that are not UTF-8, or hold line breaks and escape sequences",
    "The scan is segmented.",
)
def test_any_file_name_can_be_read(tmp_path, suffix, name):
    try:
        (tmp_path / name).touch()
    except (OSError, UnicodeError):
        pytest.skip("a file system that takes no such name")
    write(tmp_path / f"scan{suffix}")
    for file in list(tmp_path.glob("scan*")):
        # The name in the header stays, but for the pair, which goes by its own.
        keep = suffix != ".hdr" and file.suffix == ".raw"
        file.rename(tmp_path / (file.name if keep else file.name.replace("scan", name)))
    image = load(tmp_path / f"{name}{suffix}")
    assert_array_equal(image[0], IMAGE)
    assert image.meta["filename_or_obj"] == str(tmp_path / f"{name}{suffix}")


def test_ordinary_path_is_used_as_it_is(tmp_path):
    with readable_path(write(tmp_path / "scan.mha")) as path:
        assert path == str(tmp_path / "scan.mha")


FIELD = {".mhd": "ElementDataFile = scan.raw", ".nhdr": "data file: scan.raw"}
NAMES = {
    ".mhd": [
        "ElementDataFile = {}", "ElementDataFile={}", " \tElementDataFile = {}", "ElementDataFile : {}",
        "ElementDataFile\n = {}", "ElementDataFile =\n{}", "elementdatafile = scan.raw\nElementDataFile = {}",
        "xElementDataFile = scan.raw\nElementDataFile = {}", "Comment = ElementDataFile = LOCAL\nElementDataFile = {}",
        "ElementDataFile = LIST\n{}", "ElementDataFile = LISTED\n{}", "ElementDataFile = list 2\n{}",
        "Comment = \rElementDataFile = scan.raw\nElementDataFile = {}",
    ],
    ".nhdr": [
        "data file: {}", "Data File: {}", "datafile: {}", "dataFile: {}", " data file: {}", "data file:{}",
        "data file: LIST\n{}", "data file: LIST 2\n{}", "data file: scan.raw\ndata file: {}",
        "datafile: {}\ndata file: scan.raw", "\r\ndata file: {}", "\r\r\ndata file: {}", "a:=b\rdata file: {}",
    ],
}  # fmt: skip
ELSEWHERE = ["../other/secret.raw", "{tmp}/other/secret.raw", "./scan.raw", "sub/../scan.raw", "..", "", "C:secret.raw"]
ELSEWHERE += ["..\\other\\secret.raw", "secret%d.raw 1 1 1", "%s", "link.raw", "absent.raw", "pipe.raw", "sub"]


@pytest.fixture
def hostile(tmp_path):
    """A folder beside one with a secret, in which a header can be made to name anything."""
    folder = tmp_path / "scans"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    secret = tmp_path / "other" / "secret.raw"
    secret.write_bytes(IMAGE.tobytes())
    (folder / "link.raw").symlink_to(secret)
    os.mkfifo(folder / "pipe.raw")

    def make(suffix, text):
        path = write(folder / f"scan{suffix}")
        content = path.read_text()
        assert FIELD[suffix] in content
        path.write_bytes(content.replace(FIELD[suffix], text.replace("{tmp}", str(tmp_path))).encode())
        return path

    return make


HEADERS = [(suffix, form.format(ELSEWHERE[0])) for suffix, forms in NAMES.items() for form in forms]
HEADERS += [(suffix, field.replace("scan.raw", name)) for suffix, field in FIELD.items() for name in ELSEWHERE[1:]]


@pytest.mark.parametrize(("suffix", "text"), HEADERS, ids=ascii)
@pytest.mark.tried(
    "Files of a folder",
    "Headers that name voxels in another folder, behind a link or in a pipe",
    "A row with the reason; the other file is not opened.",
)
def test_header_that_names_a_file_elsewhere_is_refused_unread(hostile, suffix, text):
    path = hostile(suffix, text)
    with pytest.raises(ImageError):
        data_file(path)
    assert_refused(path, r"cannot be read \(.*data file")


def test_links_and_pipes_are_no_voxels_of_a_pair(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    path = write(folder / "scan.hdr")
    (folder / "scan.img").rename(tmp_path / "scan.img")
    assert_refused(path, re.escape("cannot be read (data file 'scan.img' is missing beside it); copy both files"))
    (folder / "scan.img").symlink_to(tmp_path / "scan.img")
    assert_refused(path, r"is a link to another folder\); copy the file itself")
    (folder / "scan.img").unlink()
    os.mkfifo(folder / "scan.img")
    assert_refused(path, "is missing beside it")
    assert_refused(folder / "scan.img", "no regular file")


def test_header_that_does_not_tell_left_from_right_is_refused(tmp_path):
    nib.save(nib.AnalyzeImage(IMAGE, np.eye(4)), tmp_path / "scan.hdr")
    assert_refused(tmp_path / "scan.hdr", "Analyze and other formats do not say which side is left: convert the scan")


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr", ".hdr"])
@pytest.mark.parametrize("content", [b"", b"NRRD", b"\0" * 400, b"\n" * 2_000_000, b"#" * 2_000_000])
def test_header_of_anything_else_is_refused(tmp_path, suffix, content):
    (tmp_path / f"scan{suffix}").write_bytes(content)
    assert_refused(tmp_path / f"scan{suffix}", r"image .* cannot be read \(.*\); ")


SPECIAL = {
    "pipe": lambda path: os.mkfifo(path),
    "broken link": lambda path: path.symlink_to(path.parent / "absent"),
    "circle of links": lambda path: path.symlink_to(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("suffix", [*VOLUME_SUFFIXES, ".png"])
def test_what_is_no_file_is_never_opened(tmp_path, make, suffix):
    make(tmp_path / f"scan{suffix}")
    assert_refused(tmp_path / f"scan{suffix}", "cannot be read .no regular file, or a link to a missing one")


def test_file_that_is_there_passes_and_one_that_is_not_is_named(tmp_path):
    check_source(write(tmp_path / "scan.nii.gz"), "image")
    with pytest.raises(ImageError, match=r"^image cannot be read \(no such file\); copy the file there"):
        check_source(tmp_path / "absent.nii.gz", "image")
