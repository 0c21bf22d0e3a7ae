"""Odd series within a tree: those that make no volume are cases that fail with a reason, the others are used."""

import re
from pathlib import Path

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLosslessSV1, MRImageStorage, SecondaryCaptureImageStorage

from common.data import find_scans, scans_to_segment
from common.dicom.series import series_name
from common.errors import DicomError, ImageError


def shear(degrees):
    """Slices 3 mm apart, each shifted against the one before it, as with a tilted gantry."""
    shift = 3 * np.tan(np.radians(degrees))
    return [{"ImagePositionPatient": [10, round(20 + shift * index, 6), 5 + 3 * index]} for index in range(4)]


SAGITTAL = [0, 1, 0, 0, 0, -1]
DISTURBED = [0.995, 0.0998, 0, -0.0998, 0.995, 0]
BROKEN = {
    "missing slice": (
        lambda x: x.slices(positions=(5, 8, 14, 17)),
        "gaps between slices from 3.000 to 6.000 mm; a slice is missing or the spacing varies: send the whole series",
    ),
    "spacing that changes": (
        lambda x: x.slices(positions=[2 * k for k in range(9)] + [16 + 2.2 * k for k in range(1, 9)]),
        "gaps between slices from 2.000 to 2.200 mm",
    ),
    "slice given twice": (
        lambda x: x.slices(positions=(5, 8, 8, 11)),
        "two slices at the same position (4 slices at 3 positions); remove the one that does not belong there",
    ),
    "two echoes": (
        lambda x: x.slices(positions=(5, 8, 11, 5, 8, 11), each=[{"EchoNumbers": 1 + k // 3} for k in range(6)]),
        "two slices at the same position (6 slices at 3 positions); if these are echoes, phases or acquisitions, "
        "export each as a series of its own",
    ),
    "slices all at one position": (
        lambda x: x.slices(positions=(5, 5)),
        "two slices at the same position (2 slices at 1 positions)",
    ),
    "two orientations": (
        lambda x: x.slices(each=[{"ImageOrientationPatient": SAGITTAL}]),
        "slices of different orientation; export each orientation as a series of its own",
    ),
    "slightly turned slice": (
        lambda x: x.slices(each=[{"ImageOrientationPatient": DISTURBED}]),
        "slices of different orientation",
    ),
    "orientation of zeros": (
        lambda x: x.slices(ImageOrientationPatient=[0] * 6),
        "ImageOrientationPatient is no pair of perpendicular unit vectors",
    ),
    "skewed axes": (
        lambda x: x.slices(ImageOrientationPatient=[1, 0, 0, 0.5, 0.866, 0]),
        "ImageOrientationPatient is no pair of perpendicular unit vectors",
    ),
    "two sizes": (lambda x: x.slices(each=[{"Rows": 5}]), "slices of different size or pixel spacing"),
    "two pixel spacings": (
        lambda x: x.slices(each=[{}, {"PixelSpacing": [0.7, 0.6]}]),
        "slices of different size or pixel spacing; all slices of a series must agree",
    ),
    "pixel spacing of zero": (
        lambda x: x.slices(PixelSpacing=[0.7, 0]),
        "Rows, Columns or PixelSpacing is 0 or negative",
    ),
    "two frames of reference": (
        lambda x: x.slices(each=[{"FrameOfReferenceUID": f"1.9.{k // 2}"} for k in range(4)]),
        "slices of different FrameOfReferenceUID; their positions cannot be compared",
    ),
    "two studies": (
        lambda x: x.slices(each=[{"StudyInstanceUID": f"1.8.{k // 2}"} for k in range(4)]),
        "slices of different StudyInstanceUID; slices of a series have these in common: export each study, and each "
        "kind of image, as a series of its own",
    ),
    "slice of another modality, class and gray scale": (
        lambda x: x.slices(
            each=[{}, {"Modality": "MR", "kind": MRImageStorage, "PhotometricInterpretation": "MONOCHROME1"}]
        ),
        "slices of different Modality, SOPClassUID, PhotometricInterpretation; slices of a series have these in common",
    ),
    "tilted gantry": (
        lambda x: x.slices(each=shear(10)),
        "slices are shifted against one another within their plane by up to 1.587 mm, as by a tilted gantry; send a "
        "series resampled without tilt",
    ),
    "one slice aside": (
        lambda x: x.slices(each=[{}, {"ImagePositionPatient": [12, 20, 8]}]),
        "slices are shifted against one another within their plane by up to 2.000 mm",
    ),
    "slice without position": (
        lambda x: x.slices(each=[{}, {}, {}, {"ImagePositionPatient": None}]),
        "1 of 4 slices have no valid ImagePositionPatient; only image series with positions are accepted",
    ),
    "position that is no number": (
        lambda x: x.slices(each=[{"ImagePositionPatient": [10, 20, "1e999"]}]),
        "1 of 4 slices have no valid ImagePositionPatient",
    ),
    "series without pixel spacing": (lambda x: x.slices(PixelSpacing=...), "4 of 4 slices have no valid PixelSpacing"),
    "truncated pixels": (
        lambda x: x.shorten(x.slices()[2], 20),
        r"slice 3 of 4 with SOPInstanceUID [\d.]+ has no readable pixels \(its values or [\w ]+ not valid\); it may be",
    ),
    "slice truncated before its pixels": (
        lambda x: x.cut_before(x.slices()[3], x.PIXEL_TAG),
        r"slice 4 of 4 with SOPInstanceUID [\d.]+ has no readable pixels \(an attribute that [\w ]+\); it may",
    ),
    "different slices of one UID": (
        lambda x: x.slices(SOPInstanceUID="1.7"),
        "4 files of one slice with SOPInstanceUID 1.7; remove copies, or export the series again if they differ",
    ),
    "compression without a decoder": (
        lambda x: x.slices(syntax=JPEGLosslessSV1, PixelData=encapsulate([b"\xff\xd8no JPEG at all\xff\xd9"])),
        "is compressed (JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 [Selection Value 1])) and "
        "cannot be decoded; install the decoders with 'python -m pip install \"pylibjpeg[all]\"' or export the series "
        "uncompressed",
    ),
    "rescaling without a value": (
        lambda x: x.slices(RescaleSlope=None),
        "pixels cannot be rescaled or stacked (its values or the length of its data are not valid)",
    ),
    "single slice": (lambda x: x.slices(positions=(5,)), "image of shape (1, 6, 4) (channels first)"),
}


@pytest.mark.parametrize(("spoil", "text"), BROKEN.values(), ids=BROKEN)
@pytest.mark.tried(
    "DICOM",
    "Missing, repeated, shifted, tilted, truncated slices, and 20 more",
    "A row with the reason.",
)
def test_series_that_makes_no_volume_is_a_case_that_fails(export, listing, load, tmp_path, spoil, text):
    spoil(export)
    cases = {case["case"]: case for case in scans_to_segment(str(export.root), str(tmp_path / "out"))}
    assert list(cases) == [series_name(export.GOOD), series_name(export.ODD)]
    assert listing(tmp_path / "out")["skipped"] == []
    assert load(cases[series_name(export.GOOD)]).shape == (1, 6, 4, 4)
    pattern = text if r"\d" in text else re.escape(text)
    with pytest.raises(ImageError, match=pattern) as caught:
        load(cases[series_name(export.ODD)] | {"case": series_name(export.ODD)})
    assert isinstance(caught.value, DicomError) == ("channels first" not in text)
    assert series_name(export.ODD) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


STRAYS = {
    "empty": (
        lambda x, path: path.write_bytes(b""),
        "file 5 of 5 is no readable DICOM image (it is empty or not DICOM)",
    ),
    "part of the preamble": (
        lambda x, path: path.write_bytes(bytes(100)),
        "file 5 of 5 is no readable DICOM image (it is empty or not DICOM)",
    ),
    "begin of the header": (
        lambda x, path: path.write_bytes(path.read_bytes()[:140]),
        "1 of 5 files have no SeriesInstanceUID",
    ),
    "without the UID": (
        lambda x, path: x.cut_before(path, x.SERIES_TAG),
        "1 of 5 files have no SeriesInstanceUID, so they may be truncated slices of it: export the series again",
    ),
    "image without the UID": (
        lambda x, path: x.image(path, 17, SeriesInstanceUID=...),
        "1 of 5 files have no SeriesInstanceUID",
    ),
}


@pytest.mark.parametrize("name", ["good/!", "good/~"])
@pytest.mark.parametrize(("spoil", "text"), STRAYS.values(), ids=STRAYS)
@pytest.mark.tried(
    "DICOM",
    "A first or last slice that is damaged beyond recognition",
    "The series fails: without it, it would look whole.",
)
def test_damaged_first_or_last_slice_fails_the_series_beside_it(export, listing, load, tmp_path, spoil, text, name):
    export.slices()
    spoil(export, Path(export.image(name, 17, series=export.GOOD)))
    good, other = scans_to_segment(str(export.root), str(tmp_path / "out"), list_paths=True)
    with pytest.raises(DicomError, match=re.escape(f"{series_name(export.GOOD)}: {text}")):
        load(good)
    assert load(other).shape == (1, 6, 4, 4)
    assert [item["file"] for item in listing(tmp_path / "out")["skipped"]] == [name]


def test_damaged_file_fails_every_series_of_its_kind_in_its_folder_and_no_other(export, load):
    for z in export.POSITIONS:
        export.image(f"good/mr{z}", z, series="1.2.5", kind=MRImageStorage, Modality="MR")
        export.image(f"good/odd{z}", z)
    export.slices("good/below", series="1.2.6")
    export.cut_before(export.image("good/~", 17), export.SERIES_TAG)
    cases = {case["case"]: case for case in find_scans(export.root)}
    assert len(cases) == 4
    for uid in ("1.2.5", "1.2.6"):
        assert load(cases[series_name(uid)]).shape == (1, 6, 4, 4)
    for uid in (export.GOOD, export.ODD):
        with pytest.raises(DicomError, match="1 of 5 files have no SeriesInstanceUID"):
            load(cases[series_name(uid)])


USED = {
    "derived image": {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]},
    "secondary capture with geometry": {"kind": SecondaryCaptureImageStorage},
    "magnetic resonance": {"kind": MRImageStorage, "Modality": "MR", "BodyPartExamined": "HEAD"},
    "deflated": {"syntax": DeflatedExplicitVRLittleEndian},
    "no file of its own UID": {"SOPInstanceUID": None},
    "one frame": {"NumberOfFrames": 1},
    "no instance number": {"InstanceNumber": ...},
    "no frame of reference": {"FrameOfReferenceUID": ...},
    "empty image type": {"ImageType": None},
    "axes with two decimals": {"ImageOrientationPatient": [0.71, 0.71, 0, -0.71, 0.71, 0]},
    "inverted gray": {"PhotometricInterpretation": "MONOCHROME1"},
}


@pytest.mark.parametrize("tags", USED.values(), ids=USED)
def test_odd_series_is_used(export, listing, load, tmp_path, tags):
    export.slices(**tags)
    used = scans_to_segment(str(export.root), str(tmp_path / "out"))[1]
    assert load(used).shape == (1, 6, 4, 4)
    assert listing(tmp_path / "out")["skipped"] == []


@pytest.mark.parametrize(
    "each",
    [
        [{"ImagePositionPatient": [10, 20, round(0.625 * index, 2)]} for index in range(4)],
        [{"ImagePositionPatient": [10, 20 + 0.005 * (index % 2), 5 + 3 * index]} for index in range(4)],
        shear(0.4),
    ],
    ids=["gaps", "shift", "tilt"],
)
def test_rounded_positions_are_accepted(export, load, each):
    export.slices(each=each)
    assert load(find_scans(export.root)[1]).shape == (1, 6, 4, 4)
