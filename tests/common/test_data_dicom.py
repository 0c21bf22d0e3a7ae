import re

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from common.data import DicomSeriesReader, find_scans, find_series, scans_to_segment
from common.data.scans import unique_names
from common.errors import BundleError, DicomError, MissingDataError
from common.transforms import LoadScand, NormalizeByModalityd

POSITIONS = (5, 8, 11, 14)
# DICOM counts in LPS, MONAI in RAS: the first two axes change sign. Columns 0.5 mm, rows 0.7 mm, slices 3 mm apart.
AFFINE = torch.tensor([[-0.5, 0, 0, -10], [0, -0.7, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]], dtype=torch.float64)


@pytest.fixture
def series_folder(tmp_path, save_slice):
    """Makes a folder with one series; each slice may have tags of its own."""

    def make(positions=POSITIONS, tags=(), name="series", **common):
        tags = list(tags) + [{}] * len(positions)
        for index, z in enumerate(positions):
            save_slice(tmp_path / name / f"{index}.dcm", z, **({"number": index + 1} | common | tags[index]))
        return tmp_path / name

    return make


def load(source):
    return LoadScand("image")({"image": source, "case": "x"})["image"]


def expected_volume(positions=POSITIONS):
    pixels = np.arange(24.0).reshape(4, 6).T
    return torch.tensor(np.stack([pixels + 100 * z for z in positions], axis=-1), dtype=torch.float32)[None]


@pytest.mark.parametrize("as_files", [False, True])
def test_complete_series_has_the_right_voxels_and_affine(series_folder, as_files):
    folder = series_folder()
    image = load(sorted(map(str, folder.iterdir())) if as_files else str(folder))
    assert_close(image.as_tensor(), expected_volume())
    assert_close(image.affine, AFFINE)


def test_positions_and_not_instance_numbers_order_the_slices(series_folder):
    image = load(str(series_folder(tags=[{"number": 4 - index} for index in range(4)])))
    assert_close(image.as_tensor(), expected_volume())
    assert_close(image.affine, AFFINE)


def test_slices_are_ordered_whatever_their_file_names(series_folder):
    image = load(str(series_folder(positions=(11, 5, 14, 8))))
    assert_close(image.as_tensor(), expected_volume())
    assert_close(image.affine, AFFINE)


def test_other_files_between_the_slices_are_passed_over(series_folder):
    folder = series_folder()
    (folder / "1a.txt").write_text("notes")
    (folder / "sub").mkdir()
    assert_close(load(str(folder)).as_tensor(), expected_volume())


def test_reader_forgets_the_series_it_read_before(series_folder):
    reader = DicomSeriesReader()
    for positions in (POSITIONS, (5, 8)):
        folder = series_folder(positions, name=f"n{len(positions)}")
        array, meta = reader.get_data(reader.read(str(folder)))
        assert array.shape == (6, 4, len(positions))
        assert_close(torch.as_tensor(meta["affine"]), AFFINE)


SAGITTAL = [0, 1, 0, 0, 0, -1]


@pytest.mark.parametrize(
    ("positions", "tags", "text"),
    [
        ((5, 8, 14, 17), [], "gaps between slices from 3.000 to 6.000 mm; a slice is missing"),
        ((5, 8, 8, 11), [], "two slices at the same position; remove the duplicate"),
        ((5, 5), [], "two slices at the same position"),
        (POSITIONS, [{"ImageOrientationPatient": SAGITTAL}], "slices of different orientation"),
        (POSITIONS, [{"series": "1.2.4"}], "4 slices of 2 DICOM series; give each series a folder of its own"),
        (POSITIONS, [{"Rows": 5}], "slices of different size or pixel spacing"),
        (POSITIONS, [{"PixelSpacing": [0.7, 0.6]}], "slices of different size or pixel spacing"),
        (POSITIONS, [{"ImagePositionPatient": None}], "a slice has no ImagePositionPatient"),
    ],
)
def test_slices_that_make_no_volume_are_named(series_folder, positions, tags, text):
    folder = series_folder(positions, tags)
    with pytest.raises(DicomError, match=re.escape(text)) as caught:
        load(str(folder))
    assert str(folder) in str(caught.value)
    assert isinstance(caught.value, BundleError)
    assert isinstance(caught.value, ValueError)


def test_folder_without_dicom_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("notes")
    with pytest.raises(DicomError, match="no DICOM file; expected is one series"):
        load(str(tmp_path))


def test_truncated_slice_is_named(series_folder):
    path = series_folder() / "2.dcm"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DicomError, match=r"2\.dcm: no readable DICOM image"):
        load(str(path.parent))


def test_modality_of_a_series_is_read_from_its_tag(series_folder):
    image = load(str(series_folder()))
    normalized = NormalizeByModalityd("image", default="MR")({"image": image})["image"]
    assert_close(normalized.as_tensor(), (expected_volume().clamp(-1000, 1000) + 1000) / 2000)


def test_series_are_told_apart_by_their_uid(tmp_path, save_slice):
    paths = {uid: [save_slice(tmp_path / f"{z}_{uid}.dcm", z, series=uid) for z in (1, 2)] for uid in ("1.2", "1.3")}
    (tmp_path / "notes.txt").write_text("no DICOM")
    assert find_series(tmp_path) == paths


def test_two_series_in_one_folder_are_two_cases_without_their_uid(tmp_path, save_slice, caplog):
    for z in POSITIONS:
        save_slice(tmp_path / "scans" / f"a{z}.dcm", z, series="1.2.3")
        save_slice(tmp_path / "scans" / f"b{z}.dcm", z + 1, series="1.2.4")
    cases = find_scans(tmp_path / "scans")
    assert len({case["case"] for case in cases}) == 2
    assert all(re.fullmatch(r"series_[0-9a-f]{8}", case["case"]) for case in cases)
    assert "holds 2 DICOM series" in caplog.text
    for case, shift in zip(cases, (0, 1), strict=True):
        assert_close(load(case["image"]).as_tensor(), expected_volume([z + shift for z in POSITIONS]))


def test_sub_folders_name_their_series(tmp_path, save_slice):
    for name, uid in (("first", "1.2"), ("second", "1.3"), ("second", "1.4")):
        save_slice(tmp_path / name / f"{uid}.dcm", 0, series=uid)
    names = [case["case"] for case in find_scans(tmp_path)]
    assert names[0] == "first"
    assert all(name.startswith("second_series_") for name in names[1:])
    assert len(set(names)) == 3


def test_every_kind_of_volume_is_found(tmp_path, save_slice):
    for name in ("b.nii.gz", "a.nii", "c.MHA", "d.nrrd", "e.png", "notes.txt"):
        (tmp_path / name).touch()
    save_slice(tmp_path / "series" / "0.dcm", 0)
    assert [case["case"] for case in find_scans(tmp_path)] == ["a", "b", "c", "d", "series"]
    assert [case["case"] for case in find_scans(tmp_path, spatial_dims=2)] == ["a", "b", "c", "d", "e", "series"]


def test_cases_of_equal_name_get_numbers(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "scan.nii.gz").touch()
    cases = scans_to_segment([str(tmp_path / "one"), str(tmp_path / "two")], str(tmp_path))
    assert [(case["case"], case["task"]) for case in cases] == [("scan", "one"), ("scan_2", "two")]


def test_numbered_names_are_unique():
    cases = unique_names([{"case": name} for name in ("scan", "scan", "scan_2")])
    assert len({case["case"] for case in cases}) == 3


def test_decathlon_folder_gives_its_cases_without_labels(decathlon_folder, tmp_path):
    cases = scans_to_segment(str(decathlon_folder(names=("a", "b"))), str(tmp_path))
    assert [case["case"] for case in cases] == ["a", "b"]
    assert not any("label" in case for case in cases)


def test_folder_without_scans_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"holds no scan; accepted are \.nii, \.nii\.gz"):
        find_scans(tmp_path)
    with pytest.raises(MissingDataError, match="does not exist; give a folder of scans"):
        find_scans(tmp_path / "absent")
