"""Files that are not what was once written are refused, and no wrong voxel is ever read."""

import gzip
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from common.errors import ImageError


def voxels_or_refusal(load, path):
    """The voxels of a file, or ``None`` where one line says why there are none."""
    try:
        return load(str(path))[0].numpy()
    except ImageError as error:
        return None if re.fullmatch(rf"case 'p1': image {re.escape(str(path))} [^\n]+", str(error)) else str(error)


class TestFlippedBits:
    # Time, system and flags in the first ten bytes, and codes of deflate that are not used, change nothing.
    @pytest.mark.tried(
        "Damaged and unusable scans",
        "Flipped bits anywhere in a `.nii.gz`",
        "A row with the reason, or the same voxels: the checksum must agree.",
    )
    def test_no_flipped_bit_of_gzip_changes_a_voxel(self, write_nifti, load, voxels):
        path = Path(write_nifti())
        content, refused = path.read_bytes(), 0
        for index in range(0, len(content), 3):
            spoiled = bytearray(content)
            spoiled[index] ^= 1 << index % 8
            path.write_bytes(spoiled)
            read = voxels_or_refusal(load, path)
            assert read is None or np.array_equal(read, voxels), index
            refused += read is None
        assert refused >= len(content) // 3 - 6

    @pytest.mark.parametrize("name", ["scan.mha", "scan.nrrd"])
    @pytest.mark.tried(
        "Damaged and unusable scans",
        "Flipped bits in compressed MetaImage and NRRD",
        "A row with the reason, or the same voxels.",
    )
    def test_no_flipped_bit_of_a_compressed_payload_changes_a_voxel(self, write_itk, load, voxels, name):
        path = write_itk(name)
        content = path.read_bytes()
        assert_array_equal(voxels_or_refusal(load, path), voxels)
        start = len(content) - 250
        refused = 0
        for index in range(start, len(content), 7):
            spoiled = bytearray(content)
            spoiled[index] ^= 1 << index % 8
            path.write_bytes(spoiled)
            read = voxels_or_refusal(load, path)
            assert read is None or np.array_equal(read, voxels), index
            refused += read is None
        assert refused >= 30


@pytest.mark.parametrize("change", ["truncate", "one byte less", "garbage", "one byte more", "second stream"])
@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii", "raw.mha", "scan.mha", "raw.nrrd", "scan.nrrd"])
@pytest.mark.tried(
    "Damaged and unusable scans",
    "Files that end early, or hold more than the header declares",
    "A row with the reason.",
)
def test_file_that_is_too_short_or_too_long_is_refused(write_nifti, write_itk, load, name, change):
    path = Path(write_nifti(name)) if "nii" in name else write_itk(name, compression=name.startswith("scan"))
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncate": content[: len(content) // 2 + 200],
            "one byte less": content[:-1],
            "garbage": content + b"garbage" * 9,
            "one byte more": content + b"x",
            "second stream": content + gzip.compress(b"more"),
        }[change]
    )
    assert voxels_or_refusal(load, path) is None


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii", "scan.mha", "scan.nrrd", "scan.png", "scan.tif"])
@pytest.mark.parametrize("content", [b"", b"\x1f", b"garbage", b"garbage" * 99, b"\x1f\x8b" + bytes(400), bytes(999)])
@pytest.mark.tried(
    "Damaged and unusable scans",
    "Empty files, texts, and other formats under the name of a scan",
    "A row with the reason.",
)
def test_file_of_another_content_is_refused_in_plain_words(tmp_path, load, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=r"copy it again|no line 'ElementDataFile") as caught:
        load(str(tmp_path / name))
    assert not [word for word in ("Traceback", "ITK ERROR", "itk::", "site-packages") if word in str(caught.value)]


def test_compression_must_agree_with_the_name(write_nifti, load):
    path = Path(write_nifti("a.nii"))
    path.rename(path.with_name("b.nii.gz"))
    with pytest.raises(ImageError, match="it is not compressed by gzip"):
        load(str(path.with_name("b.nii.gz")))
    Path(write_nifti("c.nii.gz")).rename(path)
    with pytest.raises(ImageError, match="it is compressed, against its name"):
        load(str(path))


ODD_NUMBERS = {
    "complex": (np.complex64, {}, "holds complex numbers; save the magnitude"),
    "double complex": (np.complex128, {}, "holds complex numbers"),
    "colors": (np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]), {}, "holds colors or single bits; save gray values"),
    "unknown type": (np.int16, {"datatype": 77}, "its numbers are of the unknown type 77"),
    "no type": (np.int16, {"datatype": 0}, "holds colors or single bits"),
    "infinite slope": (np.int16, {"scl_slope": np.inf}, "scales its numbers by inf"),
    "nan intercept": (np.int16, {"scl_slope": 2, "scl_inter": np.nan}, "scales its numbers by 2 and nan"),
    "voxels in the header": (np.int16, {"vox_offset": 40}, "its voxels begin at byte 40"),
    "voxels far off": (np.int16, {"vox_offset": 1e30}, "its voxels begin at byte 1e+30"),
    "voxels nowhere": (np.int16, {"vox_offset": np.nan}, "its voxels begin at byte nan"),
    "image elsewhere": (np.int16, {"magic": b"ni1"}, "is no NIfTI image in one file, against its name"),
    "no axes": (np.int16, {"dim": [0] * 8}, "declares 0 axes"),
    "too many axes": (np.int16, {"dim": [9] + [1] * 7}, "axes; accepted are 1 to 7"),
    "negative axis": (np.int16, {"dim": [3, 5, -6, 7, 1, 1, 1, 1]}, "declares 5 x -6 x 7 voxels"),
    "empty axis": (np.int16, {"dim": [3, 5, 0, 7, 1, 1, 1, 1]}, "declares 5 x 0 x 7 voxels; accepted is 1 and more"),
}


@pytest.mark.parametrize(("dtype", "fields", "words"), ODD_NUMBERS.values(), ids=ODD_NUMBERS)
@pytest.mark.tried(
    "Damaged and unusable scans",
    "Complex numbers, colors, unknown types, impossible scaling and axes",
    "A row with the reason.",
)
def test_numbers_that_are_no_gray_values_are_refused(write_nifti, load, dtype, fields, words):
    path = write_nifti(array=np.zeros((5, 6, 7), dtype=dtype), **fields)
    with pytest.raises(ImageError) as caught:
        load(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "f4", "f8", ">i2", ">f4"])
@pytest.mark.parametrize("scaled", [{}, {"scl_slope": 0.37, "scl_inter": 5.5}, {"scl_slope": np.nan}])
def test_numbers_of_every_type_are_those_that_nibabel_reads(write_nifti, load, voxels, dtype, scaled, tmp_path):
    array = (voxels % 100).astype(dtype)
    kind = nib.Nifti1Header
    if dtype.startswith(">"):
        header = nib.Nifti1Header(endianness=">")
        nib.Nifti1Image(array, np.eye(4), header).to_filename(tmp_path / "scan.nii.gz")
        path = str(tmp_path / "scan.nii.gz")
    else:
        path = write_nifti(array=array, kind=kind, **scaled)
    assert_array_equal(load(path)[0].numpy(), np.asarray(nib.load(path).dataobj).astype(np.float32))


class TestDetachedVoxels:
    def write(self, folder, name, data, voxels):
        meta = f"ObjectType = Image\nNDims = 3\nDimSize = 5 6 7\nElementType = MET_SHORT\nElementDataFile = {data}\n"
        nrrd = (
            "NRRD0004\ntype: short\ndimension: 3\nsizes: 5 6 7\nendian: little\nencoding: raw\n"
            f"space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\ndata file: {data}\n"
        )
        (folder / name).write_text(nrrd if "nrrd" in name else meta)
        return str(folder / name)

    @pytest.mark.parametrize("name", ["scan.mha", "scan.nrrd"])
    def test_beside_the_header_they_are_read(self, tmp_path, load, voxels, name):
        (tmp_path / "voxels.raw").write_bytes(voxels.tobytes(order="F"))
        assert_array_equal(load(self.write(tmp_path, name, "voxels.raw", voxels))[0].numpy(), voxels)

    @pytest.mark.parametrize("name", ["scan.mha", "scan.nrrd"])
    def test_voxels_that_are_missing_or_too_few(self, tmp_path, load, voxels, name):
        path = self.write(tmp_path, name, "voxels.raw", voxels)
        with pytest.raises(ImageError):
            load(path)
        (tmp_path / "voxels.raw").write_bytes(voxels.tobytes()[:-2])
        with pytest.raises(ImageError, match="it ends early"):
            load(path)


ITK_GEOMETRY = {
    "nan": ("1 0 0 0 1 0 0 0 1", "nan 1 1", "0 0 0"),
    "infinite origin": ("1 0 0 0 1 0 0 0 1", "1 1 1", "inf 0 0"),
    "tiny": ("1 0 0 0 1 0 0 0 1", "1e-30 1 1", "0 0 0"),
    "huge": ("1 0 0 0 1 0 0 0 1", "1e30 1 1", "0 0 0"),
    "zero": ("1 0 0 0 1 0 0 0 1", "0 1 1", "0 0 0"),
    "singular": ("1 0 0 1 0 0 0 0 1", "1 1 1", "0 0 0"),
    "no axes": ("0 0 0 0 0 0 0 0 0", "1 1 1", "0 0 0"),
    "sheared": ("1 0 0 0.3 0.954 0 0 0 1", "1 1 1", "0 0 0"),
}


NRRD_GEOMETRY = {
    "nan": ("(1,0,0) (0,nan,0) (0,0,1)", "(0,0,0)"),
    "infinite origin": ("(1,0,0) (0,1,0) (0,0,1)", "(inf,0,0)"),
    "tiny": ("(1e-30,0,0) (0,1,0) (0,0,1)", "(0,0,0)"),
    "huge": ("(1,0,0) (0,1,0) (0,0,1e30)", "(0,0,0)"),
    "singular": ("(1,0,0) (1,0,0) (0,0,1)", "(0,0,0)"),
    "no axes": ("(0,0,0) (0,0,0) (0,0,0)", "(0,0,0)"),
    "sheared": ("(1,0,0) (0.3,0.954,0) (0,0,1)", "(0,0,0)"),
}


@pytest.mark.parametrize(("axes", "origin"), NRRD_GEOMETRY.values(), ids=NRRD_GEOMETRY)
def test_nrrd_without_a_sound_place_is_refused(tmp_path, load, voxels, axes, origin):
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 5 6 7\n"
        f"space directions: {axes}\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
        f"space origin: {origin}\n\n"
    )
    (tmp_path / "scan.nrrd").write_bytes(header.encode() + voxels.tobytes(order="F"))
    assert voxels_or_refusal(load, tmp_path / "scan.nrrd") is None


@pytest.mark.parametrize(("matrix", "spacing", "offset"), ITK_GEOMETRY.values(), ids=ITK_GEOMETRY)
@pytest.mark.tried("Where a mask lies", "MetaImage that is sheared, or not finite", "A row with the reason.")
def test_meta_image_without_a_sound_place_is_refused(tmp_path, load, voxels, matrix, spacing, offset):
    header = (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nTransformMatrix = {matrix}\nOffset = {offset}\n"
        f"ElementSpacing = {spacing}\nDimSize = 5 6 7\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    (tmp_path / "scan.mha").write_bytes(header.encode() + voxels.tobytes(order="F"))
    assert voxels_or_refusal(load, tmp_path / "scan.mha") is None


class TestOtherFilesOfNibabel:
    """NIfTI in two files, and FreeSurfer's format: the same demands."""

    @pytest.fixture(params=["scan.hdr", "scan.mgz"])
    def path(self, request, voxels, tmp_path):
        affine = np.diag([0.5, -2, 3, 1.0])
        path = tmp_path / request.param
        if path.suffix == ".hdr":
            nib.Nifti1Pair(voxels, affine).to_filename(path)
        else:
            nib.MGHImage(voxels, affine).to_filename(path)
        return path

    def test_voxels_and_place_are_those_that_nibabel_reads(self, path, load, voxels):
        image = load(str(path))
        assert_array_equal(image[0].numpy(), voxels)
        assert_array_equal(np.asarray(image.affine), nib.load(path).affine)

    def test_too_many_voxels(self, path, load):
        assert load(str(path), max_voxels=210).shape == (1, 5, 6, 7)
        with pytest.raises(ImageError, match=r"accepted are 209 \(max_voxels\)"):
            load(str(path), max_voxels=209)

    @pytest.mark.parametrize("change", [lambda content: content[:-3], lambda content: content + b"garbage"])
    def test_too_short_or_too_long(self, path, load, change):
        file = path.with_suffix(".img") if path.suffix == ".hdr" else path
        file.write_bytes(change(file.read_bytes()))
        assert voxels_or_refusal(load, path) is None

    def test_flipped_bits(self, path, load, voxels):
        content = path.read_bytes()
        for index in range(0, len(content), 5):
            spoiled = bytearray(content)
            spoiled[index] ^= 1 << index % 8
            path.write_bytes(spoiled)
            read = voxels_or_refusal(load, path)
            # Nothing guards the header of a pair.
            assert read is None or path.suffix == ".hdr" or np.array_equal(read, voxels), index

    def test_place_that_is_none(self, path, load):
        if path.suffix == ".hdr":
            image = nib.load(path)
            image.header["srow_x"] = np.nan
            path.write_bytes(image.header.binaryblock)
        else:
            content = bytearray(gzip.decompress(path.read_bytes()))
            content[30:34] = np.array(np.nan, dtype=">f4").tobytes()
            path.write_bytes(gzip.compress(content))
        with pytest.raises(ImageError, match="geometry that is not finite"):
            load(str(path))
