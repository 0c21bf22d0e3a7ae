"""Every file of a folder is a scan, a part of one, or a line of the listing with the reason; none is waited for."""

import json
import logging
import os
import socket
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.data import evaluation_cases, find_scans, scans_to_segment
from common.data.folders import ATTRIBUTES, NESTED, NO_FRAME, OTHER, PICTURE, UNLISTED, VOXELS, search_folder
from common.dicom.tree import EMPTY
from common.errors import MissingDataError, OutputError
from common.runtime.listing import LINK, NO_FILE, SKIPPED_FILES, describe_path, skipped_note

CONTENT = b"no scan"


@pytest.fixture
def listed():
    """The listing that a run left: file -> reason."""

    def read(output):
        content = json.loads((output / SKIPPED_FILES).read_text(encoding="utf-8"))
        assert list(content) == ["skipped"]
        return {item["file"]: item["reason"] for item in content["skipped"]}

    return read


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "good.nii.gz").write_bytes(CONTENT)
    return tmp_path / "scans"


def put(name, content=CONTENT):
    def make(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return make


def listen(folder):
    # The path of a socket must be short.
    before = os.getcwd()
    os.chdir(folder)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("scan.nii.gz")
    os.chdir(before)


def circle(folder):
    (folder / "a").mkdir()
    (folder / "a" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("one")


ODD = {
    "backup": (put("scan.nii.gz.bak"), {"scan.nii.gz.bak": OTHER}),
    "hidden": (put(".DS_Store"), {".DS_Store": OTHER}),
    "attributes of macOS": (put("._good.nii.gz"), {"._good.nii.gz": ATTRIBUTES}),
    "no name": (put("notes"), {"notes": OTHER}),
    "empty": (put("notes.txt", b""), {"notes.txt": EMPTY}),
    "compressed pair": (put("scan.hdr.gz"), {"scan.hdr.gz": OTHER}),
    "voxels alone": (put("scan.img"), {"scan.img": VOXELS}),
    "voxels that no header names": (put("scan.zraw"), {"scan.zraw": VOXELS}),
    "folder": (put("sub/deep/scan.nii.gz"), {"sub/deep/scan.nii.gz": NESTED}),
    "folder named as a scan": (put("scan.nii/readme.txt"), {"scan.nii/readme.txt": OTHER}),
    "pipe": (lambda folder: os.mkfifo(folder / "scan.nii.gz"), {"scan.nii.gz": NO_FILE}),
    "pipe for a listing": (lambda folder: os.mkfifo(folder / "dataset.json"), {"dataset.json": NO_FILE}),
    "socket": (listen, {"scan.nii.gz": NO_FILE}),
    "device": (lambda folder: (folder / "scan.nii").symlink_to("/dev/zero"), {"scan.nii": NO_FILE}),
    "broken link": (lambda folder: (folder / "scan.mha").symlink_to("absent"), {"scan.mha": NO_FILE}),
    "circles of links": (circle, {"a/up": LINK, "one": NO_FILE, "two": NO_FILE}),
    "bytes that are no text": (put("M\udcfcller.bak"), {"M\udcfcller.bak": OTHER}),
    "name that steers a terminal": (put("a\n\x1b[2J=1.bak"), {"a\n\x1b[2J=1.bak": OTHER}),
}


@pytest.mark.parametrize(("make", "expected"), ODD.values(), ids=ODD)
@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.tried(
    "Files of a folder",
    "Backups, hidden files, nested folders, pipes, sockets, devices, broken links",
    "A line with the reason; pipes and devices are never opened.",
)
def test_file_that_is_no_scan_is_listed_with_the_reason(folder, listed, tmp_path, make, expected, spatial_dims):
    make(folder)
    inference, evaluation = (tmp_path / "out" / name for name in ("inference", "evaluation"))
    cases = scans_to_segment(str(folder), str(inference), spatial_dims=spatial_dims)
    cases += evaluation_cases(str(folder), None, str(evaluation), spatial_dims=spatial_dims)
    assert [case["case"] for case in cases] == ["good", "good"]
    for output in (inference, evaluation):
        assert listed(output) == expected
        assert skipped_note(output) == f"; {len(expected)} file(s) were not used, see {output / SKIPPED_FILES}"


@pytest.mark.parametrize(("spatial_dims", "cases"), [(2, ["good", "a"]), (3, ["good"])])
def test_pictures_are_scans_or_listed(folder, listed, tmp_path, spatial_dims, cases):
    for name in ("a.png", "sub/b.png"):
        put(name)(folder)
    found = scans_to_segment(str(folder), str(tmp_path / "out"), spatial_dims=spatial_dims)
    assert sorted(case["case"] for case in found) == sorted(cases)
    assert listed(tmp_path / "out") == (
        {"sub/b.png": NESTED} if spatial_dims == 2 else {"a.png": PICTURE, "sub/b.png": PICTURE}
    )


def test_scans_of_two_files_are_one_case_and_leave_nothing_to_list(folder, tmp_path):
    nib.save(nib.Nifti1Pair(np.zeros((2, 3, 4), np.float32), np.eye(4)), folder / "pair.hdr")
    put("meta.mhd", b"NDims = 3\nElementDataFile = meta.raw\n")(folder)
    put("near.nhdr", b"NRRD0004\ndata file: near.raw.gz\n\n")(folder)
    for name in ("meta.raw", "near.raw.gz"):
        put(name)(folder)
    cases = scans_to_segment(str(folder), str(tmp_path / "out"))
    assert [case["case"] for case in cases] == ["good", "meta", "near", "pair"]
    assert not (tmp_path / "out").exists()


def test_header_that_is_refused_is_a_case_and_what_it_names_a_line(folder, listed, tmp_path):
    put("meta.mhd", b"ElementDataFile = ./meta.raw\n")(folder)
    put("meta.raw")(folder)
    assert [case["case"] for case in scans_to_segment(str(folder), str(tmp_path / "out"))] == ["good", "meta"]
    assert listed(tmp_path / "out") == {"meta.raw": VOXELS}


def test_listing_of_an_earlier_run_goes(folder, tmp_path):
    put("notes.txt")(folder)
    scans_to_segment(str(folder), str(tmp_path / "out"))
    (folder / "notes.txt").unlink()
    scans_to_segment(str(folder), str(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []
    assert skipped_note(tmp_path / "out") == ""


def test_listing_that_cannot_be_written_is_told(folder, tmp_path):
    put("notes.txt")(folder)
    (tmp_path / "out").write_text("no folder")
    with pytest.raises(OutputError, match=rf"cannot write .*{SKIPPED_FILES}"):
        scans_to_segment(str(folder), str(tmp_path / "out"))


def test_folders_of_equal_names_are_told_apart(folder, listed, tmp_path):
    other = tmp_path / "other" / "scans"
    for place in (folder, other):
        put("good.nii")(place)
        put("notes.txt")(place)
    evaluation_cases(str(folder), [str(other)], str(tmp_path / "out"))
    assert set(listed(tmp_path / "out")) == {"scans/notes.txt", "other/scans/notes.txt"}


def test_log_counts_reasons_and_names_no_file(folder, caplog):
    for name in ("a.bak", "b.bak", "sub/c.nii"):
        put(name)(folder)
    with caplog.at_level(logging.INFO):
        find_scans(folder)
    assert caplog.messages == [f"3 file(s) of dataset_dir are not used: 2 x {OTHER}, 1 x {NESTED}"]


@pytest.mark.tried("Names", "Files whose case cannot bear their name", "The log tells which case is which file.")
def test_log_tells_which_case_is_a_file_of_another_name(folder, caplog):
    put("..nii.gz")(folder)
    with caplog.at_level(logging.INFO):
        (odd, good) = find_scans(folder)
    assert caplog.messages == [f"case {odd['case']!r} is the file {folder / '..nii.gz'}"]
    assert good["case"] == "good"


def test_unlisted_files_of_a_data_set_are_listed(decathlon_folder, listed, tmp_path):
    training = [
        {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"},
        {"image": "imagesTr/../imagesTr/b.nii.gz"},
    ]
    folder = decathlon_folder(names="abc", training=training)
    os.mkfifo(folder / "imagesTr" / "pipe.nii.gz")
    scans_to_segment(str(folder), str(tmp_path / "out"))
    assert listed(tmp_path / "out") == {
        "imagesTr/c.nii.gz": UNLISTED,
        "imagesTr/pipe.nii.gz": NO_FILE,
        "labelsTr/b.nii.gz": UNLISTED,
        "labelsTr/c.nii.gz": UNLISTED,
    }


def test_files_beside_frames_of_a_video_are_listed(tmp_path, listed):
    clip = tmp_path / "data" / "video01" / "video01_00080"
    for name in ("", "_watershed_mask", "_color_mask", "_mask"):
        put(f"frame_80_endo{name}.png")(clip)
    put("notes.txt")(clip)
    scans_to_segment(str(tmp_path / "data"), str(tmp_path / "out"), spatial_dims=2)
    assert listed(tmp_path / "out") == {"video01/video01_00080/notes.txt": NO_FRAME}


def test_folder_that_cannot_be_read_is_one_line(folder, monkeypatch):
    def refuse(path="."):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(MissingDataError, match=r"dataset_dir .*scans cannot be read \(Permission denied\); make it"):
        find_scans(folder)


@pytest.mark.parametrize("name", ["absent", "a\0b", "a" * 5000, "pipe"])
def test_what_is_no_folder_is_one_line(folder, name):
    os.mkfifo(folder / "pipe")
    with pytest.raises(MissingDataError, match="does not exist; give a scan or a folder of scans"):
        search_folder(folder / name, 3)


def test_file_of_one_scan_is_that_scan_alone(folder):
    (folder / "notes.txt").write_text("not a scan")
    assert find_scans(folder / "good.nii.gz") == [
        {"image": str(folder / "good.nii.gz"), "case": "good", "task": folder.name}
    ]
    with pytest.raises(MissingDataError, match=r"notes.txt is no image of a kind that is read \(.*\); of a DICOM"):
        find_scans(folder / "notes.txt")


def test_digest_of_a_path_depends_on_the_path_alone(tmp_path):
    path = tmp_path / "DOE^JANE" / "M\udcfcller"
    digest = describe_path(str(path), tmp_path, shown=False)
    assert digest.startswith("path_")
    assert len(digest) == 21
    assert digest == describe_path("/elsewhere/DOE^JANE/M\udcfcller", "/elsewhere", shown=False)
    assert digest != describe_path(str(path.parent), tmp_path, shown=False)
    assert describe_path(str(path), tmp_path, shown=True) == str(Path("DOE^JANE") / "M\udcfcller")
