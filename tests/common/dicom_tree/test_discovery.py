"""Folder trees as a PACS exports them: which series are found where, what is listed, and what stands beside them."""

import json
import logging
import os
import re
import shutil
from pathlib import Path

import pytest
from pydicom.uid import (
    ComprehensiveSRStorage,
    MediaStorageDirectoryStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from torch.testing import assert_close

from common.data import find_scans, scans_to_segment
from common.dicom import tree as dicom_tree
from common.dicom.series import series_name
from common.dicom.tree import DicomSeries, find_series
from common.errors import DicomError, MissingDataError, OutputError
from common.runtime.listing import Skipped

OTHER = "neither DICOM nor a file that ends as an image does"


class TestExport:
    """A whole export: two studies, three good series at different depths, one of them in two folders, and the rest."""

    @pytest.fixture
    def root(self, tmp_path, save_slice, save_object):
        root = tmp_path / "export"

        def series(uid, places, study, modality):
            for index, z in enumerate((5, 8, 11, 14)):
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
        save_slice(
            root / "S2" / "SC",
            0,
            kind=SecondaryCaptureImageStorage,
            series="1.6.8",
            ImagePositionPatient=...,
            ImageOrientationPatient=...,
        )
        save_slice(root / "S2" / "LOC", 0, series="1.6.7", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        shutil.copy(root / "S2" / "IM0001", root / "S2" / "ZZ0001")
        return root

    def test_whole_listing(self, root, listing, load, tmp_path, caplog):
        with caplog.at_level(logging.INFO):
            cases = scans_to_segment(str(root), str(tmp_path / "out"), list_paths=True)

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
                {"file": "README.txt", "reason": OTHER},
                {"file": "S1/A/D/SR0001", "reason": "no pixel data (Comprehensive SR)"},
                {"file": "S1/A/RS0001", "reason": "no pixel data (RT Structure Set)"},
                {"file": "S2/LOC", "reason": "localizer"},
                {
                    "file": "S2/SC",
                    "reason": "image without ImagePositionPatient and ImageOrientationPatient "
                    "(Secondary Capture Image)",
                },
                {
                    "file": "S2/SEG",
                    "reason": "multi-frame object (Segmentation); export it as one file per slice",
                },
                {"file": "S2/ZZ0001", "reason": "copy of another file"},
            ],
        }
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dicom_series.json", "skipped_files.json"]
        skipped = json.loads((tmp_path / "out" / "skipped_files.json").read_text(encoding="utf-8"))
        assert skipped == {"skipped": listing(tmp_path / "out")["skipped"]}
        found, unused = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
        assert found == "3 DICOM series of 12 files"
        assert unused.startswith(f"8 file(s) of dataset_dir are not used: 1 x DICOMDIR, 1 x {OTHER}, ")
        assert "S1" not in unused
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

    def test_from_the_folder_itself(self, root, listing, tmp_path, monkeypatch):
        scans_to_segment(str(root), str(tmp_path / "out"), list_paths=True)
        monkeypatch.chdir(root)
        scans_to_segment(".", str(tmp_path / "again"), list_paths=True)
        assert listing(tmp_path / "again") == listing(tmp_path / "out")

    def test_progress_is_told(self, root, monkeypatch, caplog):
        monkeypatch.setattr(dicom_tree, "PROGRESS_EVERY", 10)
        with caplog.at_level(logging.INFO):
            find_series(root)
        told = [record.getMessage() for record in caplog.records if "searching" in record.getMessage()]
        assert len(told) == 2
        assert all(re.fullmatch(r"searching for DICOM: [12]0 files, \d+ slices so far", line) for line in told)

    def test_several_folders_share_one_listing(self, root, listing, tmp_path):
        cases = scans_to_segment(
            [str(root / "S1"), str(root / "S2"), str(root / "S2")], str(tmp_path / "out"), list_paths=True
        )
        names = [case["case"] for case in cases]
        assert names == [series_name("1.5.1"), series_name("1.5.2"), series_name("1.6.1"), f"{names[2]}_2"]
        content = listing(tmp_path / "out")
        assert [(item["case"], item["folder"]) for item in content["series"]] == list(
            zip(names, ["S1/A/B/C", "S1/A", "S2", "S2"], strict=True)
        )
        assert [item["file"] for item in content["skipped"]] == [
            "S1/A/D/SR0001", "S1/A/RS0001", *["S2/LOC", "S2/SC", "S2/SEG", "S2/ZZ0001"] * 2,
        ]  # fmt: skip


def test_scans_of_other_formats_stand_beside_series(export, listing, tmp_path):
    for name in ("scan.nii.gz", "good/hidden.nii.gz", "picture.png"):
        (export.root / name).write_text("no DICOM")
    cases = scans_to_segment(str(export.root), str(tmp_path / "out"), list_paths=True)
    assert [case["case"] for case in cases] == ["scan", series_name(export.GOOD)]
    content = listing(tmp_path / "out")
    assert [item["case"] for item in content["series"]] == [series_name(export.GOOD)]
    assert content["skipped"] == [
        {"file": "good/hidden.nii.gz", "reason": "image in a folder below; give that folder as dataset_dir"},
        {"file": "picture.png", "reason": "picture; this bundle takes volumes"},
    ]


def test_folder_without_dicom_has_no_list_of_series(export, tmp_path):
    scans_to_segment(str(export.root), str(tmp_path / "out"))
    (tmp_path / "scans" / "notes").mkdir(parents=True)
    for name in ("a.nii", "notes/b.txt"):
        (tmp_path / "scans" / name).touch()
    assert [case["case"] for case in scans_to_segment(str(tmp_path / "scans"), str(tmp_path / "out"))] == ["a"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["skipped_files.json"]


def test_folder_of_skipped_objects_alone_is_told_with_the_reasons(listing, tmp_path, save_object):
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


def test_what_cannot_be_opened_is_listed(export, load, monkeypatch):
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

    monkeypatch.setattr(dicom_tree, "open", refuse(open), raising=False)
    monkeypatch.setattr(os, "scandir", refuse(os.scandir))
    tree = find_series(export.root)
    assert {os.path.relpath(item.file, export.root): item.reason for item in tree.skipped} == closed
    (case,) = find_scans(export.root)
    # Nothing but its folder tells of which series it is.
    assert [os.path.relpath(file, export.root) for file in case["image"]] == [f"good/{index}" for index in (0, 1, 3, 2)]
    (export.root / "good/2").unlink()
    with pytest.raises(DicomError, match=r"file 4 of 4 is no readable DICOM image \(No such file or directory\)"):
        load(case)
