import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, PydicomReader
from monai.transforms import LoadImage, MapTransform
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from torch.testing import assert_close

from common.data import find_scans, scans_to_segment
from common.data.folders import unique_names
from common.dicom.series import DicomSeriesReader, series_name
from common.engine.cases import CaseDataset, CaseEvaluator
from common.errors import BundleError, DicomError, ImageError, MissingDataError
from common.transforms import CheckImaged, LoadScand, NormalizeByModalityd

POSITIONS = (5, 8, 11, 14)
NAME = series_name("1.2.3")
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


def test_folder_of_two_series_is_told(series_folder):
    folder = series_folder(tags=[{"series": "1.2.4"}])
    with pytest.raises(DicomError, match="4 slices of 2 DICOM series; give each series a folder of its own") as caught:
        load(str(folder))
    assert str(folder) not in str(caught.value)
    assert isinstance(caught.value, BundleError)
    assert isinstance(caught.value, ValueError)


def test_folder_without_dicom_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("notes")
    with pytest.raises(DicomError, match="DICOM series: the folder holds no DICOM file; expected is one series"):
        load(str(tmp_path))


@pytest.mark.parametrize("spoil", ["text", "missing"])
def test_listed_file_that_is_no_dicom_is_told_and_not_passed_over(series_folder, spoil):
    files = sorted(series_folder().iterdir())
    files[3].unlink()
    if spoil == "text":
        files[3].write_text("notes" * 100)
    reason = {"text": "it is empty or not DICOM", "missing": "No such file or directory"}[spoil]
    words = f"{NAME}: file 4 of 4 is no readable DICOM image ({reason}); export the series again"
    with pytest.raises(DicomError, match=re.escape(words)):
        load([str(file) for file in files])


def test_scan_without_a_name_is_called_by_its_series(series_folder):
    folder = series_folder(positions=(5,), name="DOE^JANE")
    image = LoadScand("image")({"image": str(folder)})
    with pytest.raises(ImageError, match=rf"case '{NAME}': image of shape \(1, 6, 4\)"):
        CheckImaged("image", spatial_dims=3)(image)


def test_failure_of_another_kind_names_no_file(series_folder):
    class Failing(DicomSeriesReader):
        def get_data(self, data):
            raise AssertionError(f"{self.series_files[0]} is odd")

    folder = series_folder(name="DOE^JANE")
    with pytest.raises(ImageError, match="DICOM series: image cannot be read") as caught:
        LoadScand("image")({"image": str(folder)}, Failing())
    assert str(caught.value) == "DICOM series: image cannot be read (AssertionError); export the series again"
    assert caught.value.__suppress_context__


STORED = {
    "explicit": {},
    "implicit": {"syntax": ImplicitVRLittleEndian},
    "big endian": {"syntax": ExplicitVRBigEndian, "PixelData": np.arange(24, dtype=">i2").tobytes()},
    "deflated": {"syntax": DeflatedExplicitVRLittleEndian},
    "unsigned": {"PixelRepresentation": 0},
    "bytes": {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": bytes(range(24))},
    "rescaled": {"RescaleSlope": 0.37, "RescaleIntercept": 5.5},
    "not rescaled": {"RescaleSlope": ..., "RescaleIntercept": ...},
    "padded": {"PixelPaddingValue": 1030},
    "oblique": {"ImageOrientationPatient": [0.8, 0.6, 0, -0.6, 0.8, 0]},
    "run-length": {},
}


@pytest.mark.parametrize("kind", STORED)
def test_fewer_tags_give_the_same_volume_as_all(series_folder, kind):
    """MONAI's own reader, which reads every tag, is the reference."""
    folder = series_folder(**STORED[kind])
    if kind == "run-length":
        for path in folder.iterdir():
            data = dcmread(path)
            data.compress(RLELossless)
            data.save_as(path)
    image = load(str(folder))
    expected = LoadImage(reader=PydicomReader(), ensure_channel_first=True)(str(folder))
    assert_close(image.as_tensor(), expected.as_tensor(), rtol=0, atol=0)
    assert_close(image.affine, expected.affine, rtol=0, atol=0)
    assert len(torch.unique(image)) >= 24


def test_files_of_the_volume_are_told_in_the_order_of_its_slices(series_folder):
    folder = series_folder(positions=(11, 5, 14, 8), tags=[{"RescaleSlope": 1 + k} for k in range(4)])
    image = load([str(path) for path in sorted(folder.iterdir())])
    files = json.loads(image.meta["series_files"])
    assert [Path(file).name for file in files] == ["1.dcm", "3.dcm", "0.dcm", "2.dcm"]
    for index, file in enumerate(files):
        data = dcmread(file)
        rescaled = data.pixel_array.T * float(data.RescaleSlope) + float(data.RescaleIntercept)
        assert_close(image[0, :, :, index].as_tensor(), torch.tensor(rescaled, dtype=torch.float32))


@pytest.mark.parametrize("positions", [POSITIONS, (5,)])
@pytest.mark.parametrize("workers", [0, 1])
def test_files_of_the_volume_reach_the_postprocessing_of_the_evaluator(series_folder, positions, workers):
    """MONAI collates metadata into batches and takes these apart again."""
    folder = series_folder(positions, name="name with \u00e9, a comma")
    seen = []

    class Keep(MapTransform):
        def __call__(self, data):
            seen.append(data["image"].meta["series_files"])
            return data

    loader = DataLoader(
        CaseDataset([{"image": [str(path) for path in folder.iterdir()], "case": "x"}], LoadScand("image")),
        batch_size=1,
        num_workers=workers,
    )
    CaseEvaluator(
        device=torch.device("cpu"), val_data_loader=loader, network=torch.nn.Identity(), postprocessing=Keep("image")
    ).run()
    assert seen == [json.dumps([str(folder / f"{index}.dcm") for index in range(len(positions))])]


def test_modality_of_a_series_is_read_from_its_tag(series_folder):
    image = load(str(series_folder()))
    normalized = NormalizeByModalityd("image", modality="MR")({"image": image})["image"]
    assert_close(normalized.as_tensor(), (expected_volume().clamp(-1000, 1000) + 1000) / 2000)


def test_two_series_in_one_folder_are_two_cases(tmp_path, save_slice):
    for z in POSITIONS:
        save_slice(tmp_path / "scans" / f"a{z}.dcm", z, series="1.2.3")
        save_slice(tmp_path / "scans" / f"b{z}.dcm", z + 1, series="1.2.4")
    cases = find_scans(tmp_path / "scans")
    assert [case["case"] for case in cases] == [series_name("1.2.3"), series_name("1.2.4")]
    for case, shift in zip(cases, (0, 1), strict=True):
        assert_close(load(case["image"]).as_tensor(), expected_volume([z + shift for z in POSITIONS]))


def test_name_of_a_series_depends_on_its_uid_alone():
    digest = hashlib.sha256(b"1.2.3").hexdigest()
    assert series_name("1.2.3") == f"series_{digest[:8]}"
    assert series_name("1.2.3") != series_name("1.2.4")


def test_every_kind_of_volume_is_found(tmp_path, save_slice):
    for name in ("b.nii.gz", "a.nii", "c.MHA", "d.nrrd", "e.png", "notes.txt"):
        (tmp_path / name).touch()
    save_slice(tmp_path / "series" / "0.dcm", 0)
    assert [case["case"] for case in find_scans(tmp_path)] == ["a", "b", "c", "d", NAME]
    assert [case["case"] for case in find_scans(tmp_path, spatial_dims=2)] == ["a", "b", "c", "d", "e", NAME]


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
    with pytest.raises(MissingDataError, match="does not exist; give a scan or a folder of scans"):
        find_scans(tmp_path / "absent")
