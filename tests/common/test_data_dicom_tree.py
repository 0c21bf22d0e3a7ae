"""Folder trees as a PACS exports them: which series are found, which files are skipped why, which series fail how."""

import json
import logging
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ComprehensiveSRStorage,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    EnhancedMRImageStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    JPEGLosslessSV1,
    KeyObjectSelectionDocumentStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    ParametricMapStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from torch.testing import assert_close

from common.data import DicomSeries, DicomSeriesReader, Skipped, find_scans, find_series, scans_to_segment
from common.data import dicom_tree as dicom_tree_module
from common.data.dicom import SLICE_TAGS, series_name
from common.errors import DicomError, ImageError, MissingDataError, OutputError
from common.transforms import CheckImaged, LoadScand

GOOD, ODD = "1.2.3", "1.2.4"
NO_GEOMETRY = "image without ImagePositionPatient and ImageOrientationPatient"
TRUNCATED = "no pixel data (CT Image); the file may be truncated: copy it again"
COPY = "copy of another file"
FLAT = {"ImagePositionPatient": ..., "ImageOrientationPatient": ...}
POSITIONS = (5, 8, 11, 14)


def listing(output):
    return json.loads((output / "dicom_series.json").read_text(encoding="utf-8"))


def load(case):
    """What becomes of a case: its image, after the checks that inference makes."""
    return CheckImaged("image", spatial_dims=3)(LoadScand("image")(case))["image"]


@pytest.fixture
def export(tmp_path, save_slice, save_object):
    """A tree with one good series, to which a test adds something odd."""

    class Export:
        root = tmp_path / "export"

        def slices(self, folder="odd", positions=POSITIONS, series=ODD, each=(), **tags):
            each = [*each, *[{}] * len(positions)]
            return [
                save_slice(self.root / folder / f"{index}", z, series=series, **(tags | each[index]))
                for index, z in enumerate(positions)
            ]

        def put(self, name, kind, **tags):
            return save_object(self.root / name, kind, **tags)

        def image(self, name, z=5, series=ODD, **tags):
            return save_slice(self.root / name, z, series=series, **tags)

    made = Export()
    made.slices("good", series=GOOD)
    return made


def shorten(path, number):
    """Takes ``number`` bytes off the end of a file, or keeps so many from its begin where it is negative."""
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:-number])


def cut_before(path, tag):
    """Ends a file where the element with a tag, given as it is written, begins."""
    content = Path(path).read_bytes()
    assert tag in content
    Path(path).write_bytes(content[: content.index(tag)])


SERIES_TAG, PIXEL_TAG = b"\x20\x00\x0e\x00UI", b"\xe0\x7f\x10\x00OW"


def link(export, name, target):
    export.root.joinpath(name).symlink_to(target)


SKIPPED = {
    "text file": (lambda x: (x.root / "odd.txt").write_text("no DICOM"), {"odd.txt": "not DICOM"}),
    "empty file": (lambda x: (x.root / "odd").touch(), {"odd": "not DICOM"}),
    "table of contents": (lambda x: x.put("DICOMDIR", MediaStorageDirectoryStorage), {"DICOMDIR": "DICOMDIR"}),
    "report": (lambda x: x.put("good/sr", ComprehensiveSRStorage), {"good/sr": "no pixel data (Comprehensive SR)"}),
    "contours": (
        lambda x: x.put("rt/plan", RTStructureSetStorage),
        {"rt/plan": "no pixel data (RT Structure Set)"},
    ),
    "presentation state": (
        lambda x: x.put("gsps", GrayscaleSoftcopyPresentationStateStorage),
        {"gsps": "no pixel data (Grayscale Softcopy Presentation State)"},
    ),
    "document": (lambda x: x.put("pdf", EncapsulatedPDFStorage), {"pdf": "no pixel data (Encapsulated PDF)"}),
    "key objects": (
        lambda x: x.put("ko", KeyObjectSelectionDocumentStorage),
        {"ko": "no pixel data (Key Object Selection Document)"},
    ),
    "object of a vendor": (lambda x: x.put("raw", "1.3.12.2.1107.5.9.1"), {"raw": "no pixel data (unknown kind)"}),
    "segmentation": (
        lambda x: x.image("seg", kind=SegmentationStorage, SharedFunctionalGroupsSequence=[Dataset()], **FLAT),
        {"seg": "multi-frame object (Segmentation); export it as one file per slice"},
    ),
    "parametric map": (
        lambda x: x.image("map", kind=ParametricMapStorage, SharedFunctionalGroupsSequence=[Dataset()], **FLAT),
        {"map": "multi-frame object (Parametric Map); export it as one file per slice"},
    ),
    "enhanced image": (
        lambda x: x.image("multi", kind=EnhancedMRImageStorage, NumberOfFrames=3, PixelData=bytes(3 * 48)),
        {"multi": "multi-frame object (Enhanced MR Image); export it as one file per slice"},
    ),
    "screenshot": (
        lambda x: x.image("shot", kind=SecondaryCaptureImageStorage, **FLAT),
        {"shot": f"{NO_GEOMETRY} (Secondary Capture Image)"},
    ),
    "screenshot within the series": (
        lambda x: x.image("good/shot", series=GOOD, kind=SecondaryCaptureImageStorage, **FLAT),
        {"good/shot": f"{NO_GEOMETRY} (Secondary Capture Image)"},
    ),
    "image without orientation": (
        lambda x: x.image("odd", ImageOrientationPatient=None),
        {"odd": f"{NO_GEOMETRY} (CT Image)"},
    ),
    "color image": (
        lambda x: x.image("rgb", SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0),
        {"rgb": "color image"},
    ),
    "palette image": (
        lambda x: x.image("palette", PhotometricInterpretation="PALETTE COLOR"),
        {"palette": "color image"},
    ),
    "localizer within the series": (
        lambda x: x.image("good/scout", z=99, series=GOOD, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        {"good/scout": "localizer"},
    ),
    "copy of a slice": (lambda x: shutil.copy(x.root / "good/1", x.root / "good/1_copy"), {"good/1_copy": COPY}),
    "copy of a slice in another folder": (
        lambda x: shutil.copytree(x.root / "good", x.root / "too"),
        {f"too/{index}": COPY for index in range(4)},
    ),
    "copy of a slice with another header": (
        lambda x: x.image("good/1_later", 8, GOOD, SOPInstanceUID=instance(x.root / "good/1"), StudyDescription="x"),
        {"good/1_later": COPY},
    ),
    "image without a series": (
        lambda x: x.image("odd", SeriesInstanceUID=...),
        {"odd": "image without SeriesInstanceUID"},
    ),
    "truncated before its series": (lambda x: cut_before(x.image("odd"), SERIES_TAG), {"odd": TRUNCATED}),
    "truncated before its pixels": (lambda x: cut_before(x.image("odd"), PIXEL_TAG), {"odd": TRUNCATED}),
    "only the begin of a file": (
        lambda x: (x.root / "odd").write_bytes((x.root / "good" / "0").read_bytes()[:140]),
        {"odd": "header cannot be read; the file may be truncated: copy it again"},
    ),
    "link to a missing file": (
        lambda x: link(x, "odd", "nowhere"),
        {"odd": "no regular file, or a link to a missing one"},
    ),
    "pipe": (lambda x: os.mkfifo(x.root / "odd"), {"odd": "no regular file, or a link to a missing one"}),
    "linked folder": (lambda x: link(x, "odd", x.root / "good"), {"odd": "link to a folder, which is not followed"}),
}


def instance(path):
    from pydicom import dcmread

    return dcmread(path).SOPInstanceUID


@pytest.mark.parametrize(("spoil", "skipped"), SKIPPED.values(), ids=SKIPPED)
def test_object_is_skipped_with_the_reason_and_costs_no_series(export, tmp_path, spoil, skipped):
    spoil(export)
    (case,) = scans_to_segment(str(export.root), str(tmp_path / "out"))
    assert listing(tmp_path / "out") == {
        "series": [
            {
                "case": series_name(GOOD),
                "series_instance_uid": GOOD,
                "study_instance_uid": "1.2",
                "modality": "CT",
                "folder": "good",
                "files": 4,
            }
        ],
        "skipped": [{"file": file, "reason": reason} for file, reason in skipped.items()],
    }
    assert [load(case)[0, 0, 0, k] for k in range(4)] == [100 * z for z in POSITIONS]


def shear(degrees):
    """Slices 3 mm apart, each shifted against the one before it, as with a tilted gantry."""
    shift = 3 * np.tan(np.radians(degrees))
    return [{"ImagePositionPatient": [10, round(20 + shift * index, 6), z]} for index, z in enumerate(POSITIONS)]


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
        lambda x: shorten(x.slices()[2], 20),
        r"slice 3 of 4 with SOPInstanceUID [\d.]+ has no readable pixels \(ValueError\); it may be truncated: export",
    ),
    "slice truncated before its pixels": (
        lambda x: cut_before(x.slices()[3], PIXEL_TAG),
        r"slice 4 of 4 with SOPInstanceUID [\d.]+ has no readable pixels \(AttributeError\); it may be truncated",
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
        "pixels cannot be rescaled or stacked (TypeError)",
    ),
    "single slice": (lambda x: x.slices(positions=(5,)), "image of shape (1, 6, 4) (channels first)"),
}


@pytest.mark.parametrize(("spoil", "text"), BROKEN.values(), ids=BROKEN)
def test_series_that_makes_no_volume_is_a_case_that_fails(export, tmp_path, spoil, text):
    spoil(export)
    cases = {case["case"]: case for case in scans_to_segment(str(export.root), str(tmp_path / "out"))}
    assert list(cases) == [series_name(GOOD), series_name(ODD)]
    assert listing(tmp_path / "out")["skipped"] == []
    assert load(cases[series_name(GOOD)]).shape == (1, 6, 4, 4)
    pattern = text if r"\d" in text else re.escape(text)
    with pytest.raises(ImageError, match=pattern) as caught:
        load(cases[series_name(ODD)] | {"case": series_name(ODD)})
    assert isinstance(caught.value, DicomError) == ("channels first" not in text)
    assert series_name(ODD) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


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
def test_odd_series_is_used(export, tmp_path, tags):
    export.slices(**tags)
    used = scans_to_segment(str(export.root), str(tmp_path / "out"))[1]
    assert load(used).shape == (1, 6, 4, 4)
    assert listing(tmp_path / "out")["skipped"] == []


@pytest.mark.parametrize(
    "each",
    [
        [{"ImagePositionPatient": [10, 20, round(0.625 * index, 2)]} for index in range(4)],
        [{"ImagePositionPatient": [10, 20 + 0.005 * (index % 2), z]} for index, z in enumerate(POSITIONS)],
        shear(0.4),
    ],
    ids=["gaps", "shift", "tilt"],
)
def test_rounded_positions_are_accepted(export, each):
    export.slices(each=each)
    assert load(find_scans(export.root)[1]).shape == (1, 6, 4, 4)


class TestExport:
    """A whole export: two studies, three good series at different depths, one of them in two folders, and the rest."""

    @pytest.fixture
    def root(self, tmp_path, save_slice, save_object):
        root = tmp_path / "export"

        def series(uid, places, study, modality):
            for index, z in enumerate(POSITIONS):
                place = root / places[index % len(places)]
                save_slice(place / f"IM{index:04}", z, series=uid, StudyInstanceUID=study, Modality=modality)

        series("1.5.1", ["S1/A/B/C"], "1.5", "CT")
        series("1.5.2", ["S1/A/D", "S1/A/E/F"], "1.5", "CT")
        series("1.6.1", ["S2"], "1.6", "MR")
        save_object(root / "DICOMDIR", MediaStorageDirectoryStorage)
        (root / "README.txt").write_text("burned by a PACS")
        save_object(root / "S1" / "A" / "D" / "SR0001", ComprehensiveSRStorage, series="1.5.9")
        save_object(root / "S1" / "A" / "RS0001", RTStructureSetStorage, series="1.5.8")
        save_slice(
            root / "S2" / "SEG", 0, kind=SegmentationStorage, series="1.6.9", NumberOfFrames=2, PixelData=bytes(96)
        )
        save_slice(root / "S2" / "SC", 0, kind=SecondaryCaptureImageStorage, series="1.6.8", **FLAT)
        save_slice(root / "S2" / "LOC", 0, series="1.6.7", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        shutil.copy(root / "S2" / "IM0001", root / "S2" / "ZZ0001")
        return root

    def test_whole_listing(self, root, tmp_path, caplog):
        with caplog.at_level(logging.INFO):
            cases = scans_to_segment(str(root), str(tmp_path / "out"))

        def described(uid, study, modality, folder):
            return {
                "case": series_name(uid),
                "series_instance_uid": uid,
                "study_instance_uid": study,
                "modality": modality,
                "folder": folder,
                "files": 4,
            }

        assert listing(tmp_path / "out") == {
            "series": [
                described("1.5.1", "1.5", "CT", "S1/A/B/C"),
                described("1.5.2", "1.5", "CT", "S1/A"),
                described("1.6.1", "1.6", "MR", "S2"),
            ],
            "skipped": [
                {"file": "DICOMDIR", "reason": "DICOMDIR"},
                {"file": "README.txt", "reason": "not DICOM"},
                {"file": "S1/A/D/SR0001", "reason": "no pixel data (Comprehensive SR)"},
                {"file": "S1/A/RS0001", "reason": "no pixel data (RT Structure Set)"},
                {"file": "S2/LOC", "reason": "localizer"},
                {"file": "S2/SC", "reason": f"{NO_GEOMETRY} (Secondary Capture Image)"},
                {
                    "file": "S2/SEG",
                    "reason": "multi-frame object (Segmentation); export it as one file per slice",
                },
                {"file": "S2/ZZ0001", "reason": COPY},
            ],
        }
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["dicom_series.json"]
        (line,) = [record.getMessage() for record in caplog.records if "DICOM series" in record.getMessage()]
        assert line.startswith("3 DICOM series of 12 files; skipped: 1 x DICOMDIR, 1 x not DICOM, ")
        assert "S1" not in line
        for case in cases:
            assert_close(load(case)[0, 0, 0].as_tensor(), load(cases[0])[0, 0, 0].as_tensor())
        files = [f"S1/A/{place}/IM{index:04}" for index, place in ((0, "D"), (2, "D"), (1, "E/F"), (3, "E/F"))]
        assert cases[1]["image"] == [str(root / file) for file in files]
        assert [Path(file).name for file in json.loads(load(cases[1]).meta["series_files"])] == [
            f"IM{index:04}" for index in range(4)
        ]

    def test_search_alone_gives_the_same(self, root):
        tree = find_series(root)
        assert tree.series[2] == DicomSeries("1.6.1", "1.6", "MR", [str(root / f"S2/IM{k:04}") for k in range(4)])
        assert tree.skipped[0] == Skipped(str(root / "DICOMDIR"), "DICOMDIR")

    def test_from_the_folder_itself(self, root, tmp_path, monkeypatch):
        scans_to_segment(str(root), str(tmp_path / "out"))
        monkeypatch.chdir(root)
        scans_to_segment(".", str(tmp_path / "again"))
        assert listing(tmp_path / "again") == listing(tmp_path / "out")

    def test_progress_is_told(self, root, monkeypatch, caplog):
        monkeypatch.setattr(dicom_tree_module, "PROGRESS_EVERY", 10)
        with caplog.at_level(logging.INFO):
            find_series(root)
        told = [record.getMessage() for record in caplog.records if "searching" in record.getMessage()]
        assert len(told) == 2
        assert all(re.fullmatch(r"searching for DICOM: [12]0 files, \d+ slices so far", line) for line in told)

    def test_several_folders_share_one_listing(self, root, tmp_path):
        cases = scans_to_segment([str(root / "S1"), str(root / "S2"), str(root / "S2")], str(tmp_path / "out"))
        names = [case["case"] for case in cases]
        assert names == [series_name("1.5.1"), series_name("1.5.2"), series_name("1.6.1"), f"{names[2]}_2"]
        content = listing(tmp_path / "out")
        assert [(item["case"], item["folder"]) for item in content["series"]] == list(
            zip(names, ["S1/A/B/C", "S1/A", "S2", "S2"], strict=True)
        )
        assert [item["file"] for item in content["skipped"]] == [
            "S1/A/D/SR0001", "S1/A/RS0001", *["S2/LOC", "S2/SC", "S2/SEG", "S2/ZZ0001"] * 2,
        ]  # fmt: skip


def test_scans_of_other_formats_stand_beside_series(export, tmp_path):
    for name in ("scan.nii.gz", "good/hidden.nii.gz", "picture.png"):
        (export.root / name).touch()
    cases = scans_to_segment(str(export.root), str(tmp_path / "out"))
    assert [case["case"] for case in cases] == ["scan", series_name(GOOD)]
    content = listing(tmp_path / "out")
    assert [item["case"] for item in content["series"]] == [series_name(GOOD)]
    assert content["skipped"] == [{"file": f, "reason": "not DICOM"} for f in ("good/hidden.nii.gz", "picture.png")]


def test_folder_without_dicom_has_no_listing(tmp_path):
    (tmp_path / "scans" / "notes").mkdir(parents=True)
    for name in ("a.nii", "notes/b.txt"):
        (tmp_path / "scans" / name).touch()
    assert [case["case"] for case in scans_to_segment(str(tmp_path / "scans"), str(tmp_path / "out"))] == ["a"]
    assert not (tmp_path / "out").exists()


def test_folder_of_skipped_objects_alone_is_told_with_the_reasons(tmp_path, save_object):
    for index in range(3):
        save_object(tmp_path / "scans" / f"{index}", ComprehensiveSRStorage)
    save_object(tmp_path / "scans" / "DICOMDIR", MediaStorageDirectoryStorage)
    words = "holds no scan (skipped: 3 x no pixel data (Comprehensive SR), 1 x DICOMDIR); accepted are .nii"
    with pytest.raises(MissingDataError, match=re.escape(words)):
        find_scans(tmp_path / "scans")
    with pytest.raises(MissingDataError, match=re.escape(words)):
        scans_to_segment(str(tmp_path / "scans"), str(tmp_path / "out"))
    assert len(listing(tmp_path / "out")["skipped"]) == 4
    assert listing(tmp_path / "out")["series"] == []


def test_listing_that_cannot_be_written_is_told(export, tmp_path):
    (tmp_path / "out").write_text("no folder")
    with pytest.raises(OutputError, match=r"cannot write .*dicom_series\.json"):
        scans_to_segment(str(export.root), str(tmp_path / "out"))


def test_what_cannot_be_opened_is_listed(export, monkeypatch):
    """Permissions are not tested for real: whoever may do everything runs these tests as well."""
    closed = {"good/2": "cannot be read (Permission denied)", "secret": "folder cannot be read (Permission denied)"}
    (export.root / "secret").mkdir()
    denied = {str(export.root / name) for name in closed}

    def refuse(function):
        def call(path, *args, **kwargs):
            if str(path) in denied:
                raise PermissionError(13, "Permission denied", str(path))
            return function(path, *args, **kwargs)

        return call

    monkeypatch.setattr(dicom_tree_module, "open", refuse(open), raising=False)
    monkeypatch.setattr(os, "scandir", refuse(os.scandir))
    tree = find_series(export.root)
    assert {os.path.relpath(item.file, export.root): item.reason for item in tree.skipped} == closed
    (case,) = find_scans(export.root)
    with pytest.raises(DicomError, match="a slice is missing"):
        load(case)


class TestPrivacy:
    """Nothing that tells who the patient is leaves tags or names of files and folders."""

    SECRETS = ("DOE", "JANE", "P4711", "19600102", "A0815", "1960DOE", "Invalid value")
    TAGS = {
        "SpecificCharacterSet": "ISO_IR 192",
        "PatientName": "DOE^JANE",
        "PatientID": "P4711",
        "PatientBirthDate": "19600102",
        "AccessionNumber": "A0815",
        "StudyDescription": "HEAD OF JANE",
    }
    FOLDER = "DOE^JANE_P4711/19600102_A0815"

    @pytest.fixture
    def named(self, export, save_slice):
        """The export with a patient's attributes everywhere, some of them not even valid."""
        for index, path in enumerate(export.slices(f"{self.FOLDER}/JANE", **self.TAGS)):
            content = Path(path).read_bytes()
            bad = [(b"19600102", b"1960DOE!"), (b"DOE^JANE", b"DOE\xff\xfe\x80\x81\x82")][index % 2]
            assert bad[0] in content
            Path(path).write_bytes(content.replace(*bad))
        return export

    def secrets_in(self, text):
        return [secret for secret in self.SECRETS if secret in text]

    def spoil(self, export, how):
        folder = f"{self.FOLDER}/JANE"
        files = [str(export.root / folder / f"{index}") for index in range(4)]
        {
            "nothing": lambda: None,
            "gap": lambda: os.unlink(files[1]),
            "pixels": lambda: shorten(files[2], 20),
            "vanished": lambda: None,
            "copy that differs": lambda: export.image(
                f"{folder}/JANE2", 9, SOPInstanceUID=instance(files[1]), **self.TAGS
            ),
            "compressed": lambda: export.slices(
                folder, syntax=JPEGLosslessSV1, PixelData=encapsulate([b"\xff\xd8\xff\xd9"]), **self.TAGS
            ),
            "rescale": lambda: export.slices(folder, RescaleSlope=None, **self.TAGS),
            "report": lambda: export.put(f"{folder}/DOE", ComprehensiveSRStorage, **self.TAGS),
            "truncated": lambda: cut_before(export.image(f"{folder}/DOE", **self.TAGS), PIXEL_TAG),
        }[how]()
        return files

    @pytest.mark.parametrize(
        "how",
        ["nothing", "gap", "pixels", "vanished", "copy that differs", "compressed", "rescale", "report", "truncated"],
    )
    def test_neither_logs_nor_names_nor_errors_tell(self, named, tmp_path, caplog, capfd, how):
        files = self.spoil(named, how)
        caplog.set_level(logging.DEBUG)
        cases = scans_to_segment(str(named.root), str(tmp_path / "out"))
        assert len(cases) == 2
        if how == "vanished":
            os.unlink(files[0])
        texts = [json.dumps([case["case"] for case in cases])]
        for case in cases:
            try:
                load(case)
            except ImageError as error:
                logging.getLogger("test").debug("failed", exc_info=True)
                texts += [str(error), repr(error)]
        assert (len(texts) == 1) == (how in ("nothing", "report"))
        captured = capfd.readouterr()
        assert self.secrets_in("".join([*texts, caplog.text, captured.out, captured.err])) == []
        assert self.secrets_in("".join(path.name for path in (tmp_path / "out").rglob("*"))) == []
        content = listing(tmp_path / "out")
        # The listing is where a user learns which folder a name stands for.
        assert content["series"][0]["folder"] == f"{self.FOLDER}/JANE"
        hidden = [{key: value for key, value in item.items() if key != "folder"} for item in content["series"]]
        assert self.secrets_in(json.dumps([hidden, [item["reason"] for item in content["skipped"]]])) == []

    def test_attributes_are_not_even_in_memory(self, named):
        slices = DicomSeriesReader().read(find_scans(named.root)[0]["image"])
        tags = {item.keyword for slice_ in slices for item in slice_}
        assert "PixelData" in tags
        assert tags <= {*SLICE_TAGS, "SpecificCharacterSet"}

    def test_attributes_are_such_that_reading_them_warns(self, named):
        from pydicom import dcmread

        files = [named.root / self.FOLDER / "JANE" / f"{index}" for index in range(2)]
        assert dcmread(files[0]).PatientBirthDate == "1960DOE!"
        with pytest.warns(UserWarning, match="Failed to decode byte string"):
            assert str(dcmread(files[1]).PatientName).startswith("DOE")

    def test_tag_that_is_no_uid_is_not_repeated(self, named, caplog):
        # Anything may stand where a UID should.
        uid = b"1.7.7777"
        paths = named.slices(f"{self.FOLDER}/JANE", SOPInstanceUID=uid.decode())
        for path in paths:
            Path(path).write_bytes(Path(path).read_bytes().replace(uid, b"DOE^JANE"))
        with pytest.raises(DicomError, match="4 files of one slice; remove copies") as caught:
            load(find_scans(named.root)[0])
        # pydicom would log the invalid value.
        assert self.secrets_in(str(caught.value) + caplog.text) == []
