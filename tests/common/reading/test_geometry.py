"""A mask lies where its scan lies, for every way in which a header can say where that is; or the scan is refused."""

import itertools
import logging
import math
import warnings

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Orientation
from numpy.testing import assert_allclose, assert_array_equal

from common.errors import ImageError
from common.reading import check_affine
from common.transforms import SaveSegmentationd

LPS = np.diag([-1.0, -1, 1, 1])


def affine_of(spacing=(1.0, 1, 1), origin=(0.0, 0, 0), rotation=None):
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing) if rotation is None else rotation @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def turned(*angles):
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        rotation = turn @ rotation
    return rotation


AFFINES = {
    "identity": np.eye(4),
    "template": affine_of((1.05, 1.05, 1.05), (-40, -50, -30)),
    "oblique": affine_of((0.8, 1.3, 2.7), (11.3, -7.9, 3.21), turned(0.3, -0.7, 1.1)),
    "flipped": affine_of((0.7, 0.9, 3), (100.1, 33.3, -12), np.diag([-1.0, 1, 1])),
    "all flipped": affine_of((0.7, 0.9, 3), (1e-20, 33.3, 1e-3), -np.eye(3)),
    "permuted": affine_of((0.33, 1.7, 5), (-8, 4, 20), np.eye(3)[[2, 0, 1]]),
    "oblique, permuted, flipped": affine_of((0.6, 2.2, 1.9), (3, 1, 2), turned(0.1, 0.2, 0.3)[[1, 0, 2]]),
    "smallest": affine_of((1e-3, 1e-3, 1e-3)),
    "largest": affine_of((1000, 999, 1000), (1e5, -1e5, 0)),
}
QFORM = affine_of((1, 1, 1), (5, 5, 5))


def itk_affine(path):
    import itk

    image = itk.imread(path)
    affine = affine_of(image.GetSpacing(), image.GetOrigin(), itk.array_from_matrix(image.GetDirection()))
    return LPS @ affine


def readings(path):
    """How nibabel and ITK place an image; nibabel's own corrections included."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ITK's, while it is imported
        return nib.load(path).affine, itk_affine(path)


def assert_consistent(path):
    """Both forms of a mask, where they count, and its spacing put it to one place."""
    image = nib.load(path)
    header = image.header
    assert_allclose(header.get_zooms(), np.linalg.norm(image.affine[:3, :3], axis=0), rtol=1e-5)
    for form in (image.get_sform(coded=True), image.get_qform(coded=True)):
        assert form[0] is None or np.abs(form[0] - image.affine).max() <= 1e-4 * max(1, np.abs(image.affine).max())
    assert header["xyzt_units"] % 8 == 2


@pytest.mark.parametrize("codes", list(itertools.product((0, 1, 2, 4), repeat=2)), ids=str)
@pytest.mark.parametrize("spacing", ["of the sform", "of the qform", "of neither"])
@pytest.mark.tried(
    "Where a mask lies",
    "NIfTI whose sform, qform and spacing disagree, with any codes",
    "The mask lies where nibabel reads the scan: sform, else qform, else spacing.",
)
def test_mask_lies_where_nibabel_reads_the_scan(write_nifti, saved_mask, codes, spacing):
    sform, qform = AFFINES["oblique"], QFORM
    zooms = {"of the sform": (0.8, 1.3, 2.7), "of the qform": (1, 1, 1), "of neither": (3, 4, 5)}[spacing]
    path = write_nifti(forms=[("qform", qform, codes[1]), ("sform", sform, codes[0])], pixdim=[1, *zooms, 0, 0, 0, 0])
    mask = saved_mask(path)
    expected, by_itk = readings(path)
    read, read_by_itk = readings(mask)
    assert_array_equal(read, expected)
    assert_consistent(mask)
    if codes[0]:
        assert_allclose(read, sform, rtol=1e-6, atol=1e-6)
        assert_allclose(read_by_itk, sform, rtol=1e-5, atol=1e-5)
        # With agreeing spacing, ITK prefers a qform to any sform but that of the scanner.
        if spacing == "of the sform" and (codes[0] == 1 or not codes[1]):
            assert_allclose(read_by_itk, by_itk, rtol=1e-5, atol=1e-5)
    else:
        # Without codes each library has a reading of its own, and the mask follows both.
        assert_allclose(read_by_itk, by_itk, rtol=1e-6, atol=1e-6)


def test_the_reported_case(write_nifti, saved_mask):
    for code in (0, 1):
        path = write_nifti(forms=[("qform", QFORM, code), ("sform", AFFINES["template"], 4)], pixdim=[1] * 8)
        for reading in readings(saved_mask(path)):
            assert_allclose(reading, AFFINES["template"], rtol=1e-6)


@pytest.mark.parametrize("spacing", [math.inf, math.nan, 0.0, -1.0])
def test_spacing_that_does_not_count_may_be_anything(write_nifti, saved_mask, spacing):
    path = write_nifti(forms=[("sform", AFFINES["oblique"], 1)], pixdim=[1, spacing, 1, 1, 0, 0, 0, 0])
    assert_allclose(readings(saved_mask(path))[0], AFFINES["oblique"], rtol=1e-6, atol=1e-6)


CODES = [(1, 1), (2, 0), (0, 3), (4, 1)]


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("codes", CODES, ids=str)
@pytest.mark.tried(
    "Where a mask lies",
    "Turned, flipped, permuted and tiny voxels",
    "The mask has the scan's geometry, bit by bit.",
)
def test_sound_geometry_is_kept_bit_by_bit(write_nifti, saved_mask, affine, codes):
    path = write_nifti(forms=[("qform", affine, codes[1]), ("sform", affine, codes[0])])
    mask = saved_mask(path)
    expected, by_itk = readings(path)
    read, read_by_itk = readings(mask)
    assert_array_equal(read, expected)
    assert_allclose(read_by_itk, by_itk, rtol=1e-5, atol=1e-5)
    assert_consistent(mask)
    header = nib.load(mask).header
    assert int(header["sform_code"] or header["qform_code"]) == (codes[0] or codes[1])


@pytest.mark.parametrize("codes", CODES, ids=str)
def test_numbers_of_double_precision_are_kept_as_well(write_nifti, saved_mask, codes):
    """NIfTI-2, which ITK does not read."""
    affine = AFFINES["oblique"]
    path = write_nifti(kind=nib.Nifti2Header, forms=[("qform", affine, codes[1]), ("sform", affine, codes[0])])
    mask = nib.load(saved_mask(path))
    assert_array_equal(mask.affine, nib.load(path).affine)
    assert type(mask) is nib.Nifti2Image
    assert np.abs(mask.affine.astype(np.float32) - mask.affine).max() > 0


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_voxels_and_place_survive_the_turn_to_standard_axes(write_nifti, load, voxels, affine, tmp_path):
    path = write_nifti(forms=[("sform", affine, 1)])
    turn = Orientation("RAS", labels=None)
    back = turn.inverse(turn(load(path)))
    SaveSegmentationd("pred", str(tmp_path / "out"))({"pred": back % 5, "case": "p1"})
    saved = nib.load(tmp_path / "out" / "p1" / "p1_seg.nii.gz")
    assert_array_equal(np.asarray(saved.dataobj), voxels % 5)
    assert_array_equal(saved.affine, nib.load(path).affine)


def test_big_endian_header_is_read_and_its_place_kept(write_nifti, load, tmp_path, voxels):
    affine = AFFINES["oblique"]
    image = nib.Nifti1Image(voxels.astype(">i2"), affine, nib.Nifti1Header(endianness=">"))
    image.to_filename(tmp_path / "big.nii.gz")
    scan = load(str(tmp_path / "big.nii.gz"))
    assert_array_equal(scan[0].numpy(), voxels)
    SaveSegmentationd("pred", str(tmp_path / "out"))({"pred": scan % 2, "case": "p1"})
    mask = nib.load(tmp_path / "out" / "p1" / "p1_seg.nii.gz")
    assert_array_equal(mask.affine, nib.load(tmp_path / "big.nii.gz").affine)


@pytest.mark.parametrize(("code", "spacing", "warned"), [(1, 1.05, False), (1, 1, True), (0, 1.05, False)])
def test_disagreeing_forms_are_told_once_with_the_mask(write_nifti, saved_mask, caplog, code, spacing, warned):
    sform = AFFINES["template"]
    qform = QFORM if warned else sform
    path = write_nifti(forms=[("qform", qform, code), ("sform", sform, 4)], pixdim=[1, *[spacing] * 3, 0, 0, 0, 0])
    with caplog.at_level(logging.WARNING, "common"):
        saved_mask(path)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("common")]
    assert len(told) == warned
    assert not told or told[0].startswith("case 'p1': sform, qform and spacing of the scan disagree")


def with_entry(value, row=0, column=0):
    affine = np.diag([1.0, 2, 3, 1])
    affine[row, column] = value
    return affine


BROKEN = {
    "nan": (with_entry(math.nan), "not finite"),
    "infinite": (with_entry(math.inf), "not finite"),
    "nan offset": (with_entry(math.nan, 1, 3), "not finite"),
    "zero axis": (with_entry(0.0), "has voxels of 0 x 2 x 3 mm; accepted are 0.001 to 1000 mm along each axis"),
    "all zero": (np.diag([0.0, 0, 0, 1]), "has voxels of 0 x 0 x 0 mm"),
    "huge": (with_entry(1e30), "has voxels of 1e+30 x 2 x 3 mm"),
    "all huge": (np.diag([1e30, 1e30, 1e30, 1]), "has voxels of 1e+30"),
    "tiny": (np.diag([1e-30, 1e-30, 1e-30, 1]), "has voxels of 1e-30"),
    "a little too large": (with_entry(1001), "has voxels of 1001 x 2 x 3 mm"),
    "a little too small": (with_entry(0.0009), "has voxels of 0.0009 x 2 x 3 mm"),
    "far away": (with_entry(2e6, 2, 3), "lies 2e+06 mm from the origin"),
    "sheared": (with_entry(0.5, 0, 1), "axes that are not perpendicular, by 14 degrees"),
    "sheared a little": (with_entry(0.006, 0, 1), "axes that are not perpendicular, by 0.17"),
    "parallel": (np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "not perpendicular, by 90"),
}


@pytest.mark.parametrize(("affine", "words"), BROKEN.values(), ids=BROKEN)
@pytest.mark.tried(
    "Where a mask lies",
    "NaN, infinite, zero, 1e30 and 1e-30 spacing, sheared axes",
    "A row with the reason.",
)
class TestUnsoundGeometry:
    def test_affine_is_refused(self, affine, words):
        with pytest.raises(ImageError, match=words.replace("+", r"\+")):
            check_affine(affine)

    @pytest.mark.parametrize("code", [1, 2, 4])
    def test_sform_is_refused_in_one_line_whatever_the_qform(self, write_nifti, load, affine, words, code):
        rows = {f"srow_{name}": affine[index] for index, name in enumerate("xyz")}
        path = write_nifti(forms=[("qform", QFORM, 1)], sform_code=code, **rows)
        with pytest.raises(ImageError) as caught:
            load(path)
        assert str(caught.value).startswith(f"case 'p1': image {path} ")
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_sform_that_does_not_count_does_no_harm(self, write_nifti, saved_mask, affine, words):
        rows = {f"srow_{name}": affine[index] for index, name in enumerate("xyz")}
        mask = saved_mask(write_nifti(forms=[("qform", QFORM, 1)], sform_code=0, **rows))
        for reading in readings(mask):
            assert_array_equal(reading, QFORM)


HEADERS = {
    "qform is no rotation": ({"qform_code": 1, "quatern_b": 0.9, "quatern_c": 0.9}, "qform that is no rotation"),
    "qform is nan": ({"qform_code": 1, "quatern_b": math.nan}, "not finite"),
    "qform offset is infinite": ({"qform_code": 1, "qoffset_x": math.inf}, "not finite"),
    "no spacing for the qform": ({"qform_code": 1, "pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}, "has voxels of 0 x 1 x 1 mm"),
    "no spacing at all": ({"pixdim": [0] * 8}, "has voxels of 0 x 0 x 0 mm; accepted are positive numbers"),
    "negative spacing": ({"pixdim": [1, 1, -1, 1, 0, 0, 0, 0]}, "has voxels of 1 x -1 x 1 mm"),
    "nan spacing": ({"pixdim": [1, math.nan, 1, 1, 0, 0, 0, 0]}, "has voxels of nan x 1 x 1 mm"),
    "huge spacing": ({"pixdim": [1, 1e30, 1, 1, 0, 0, 0, 0]}, "has voxels of 1e+30 x 1 x 1 mm"),
    "tiny spacing": ({"qform_code": 1, "pixdim": [1, 1e-30, 1, 1, 0, 0, 0, 0]}, "has voxels of 1e-30 x 1 x 1 mm"),
    "odd qfac": ({"qform_code": 1, "pixdim": [-0.5, 1, 1, 1, 0, 0, 0, 0]}, "has the qfac -0.5; accepted are -1 and 1"),
    "unknown sform code": ({"sform_code": 9}, "has the sform code 9; accepted are 0 to 5"),
    "negative qform code": ({"qform_code": -1}, "has the qform code -1; accepted are 0 to 5"),
    "meters": ({"xyzt_units": 1}, "gives its geometry in meters or micrometers; save it in mm"),
    "micrometers and seconds": ({"xyzt_units": 3 + 8}, "gives its geometry in meters or micrometers"),
}


@pytest.mark.parametrize(("fields", "words"), HEADERS.values(), ids=HEADERS)
@pytest.mark.tried("Where a mask lies", "qform or spacing that is not finite or not possible", "A row with the reason.")
def test_header_without_a_sound_place_is_refused(write_nifti, load, fields, words):
    with pytest.raises(ImageError) as caught:
        load(write_nifti(**fields))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flat_image_needs_no_third_spacing(write_nifti, load, voxels):
    path = write_nifti(array=voxels[:, :, 0], pixdim=[0, 2, 3, 0, 0, 0, 0, 0])
    assert_allclose(np.linalg.norm(load(path).affine[:3, :3], axis=0), [2, 3, 1])


@pytest.mark.parametrize("name", ["scan.mha", "scan.nrrd"])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.tried(
    "Where a mask lies",
    "MetaImage and NRRD of turned, flipped, permuted and tiny voxels",
    "The mask lies where ITK reads the scan.",
)
def test_mask_lies_where_itk_reads_a_scan_of_another_format(saved_mask, voxels, tmp_path, name, affine):
    import itk

    image = itk.image_from_array(np.ascontiguousarray(voxels.T))
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(lps[:3, :3] / spacing))
    itk.imwrite(image, str(tmp_path / name))
    mask = saved_mask(str(tmp_path / name))
    for reading in readings(mask):
        assert_allclose(reading, itk_affine(str(tmp_path / name)), rtol=1e-5, atol=1e-5)
    assert_consistent(mask)
