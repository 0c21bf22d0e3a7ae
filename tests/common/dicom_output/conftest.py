"""Series of a known patient, a bundle's metadata, and what a segmentation saved as DICOM holds when it is read back."""

import json
from dataclasses import dataclass
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from pydicom.config import disable_value_validation

from common.transforms import LoadScand, SaveSegmentationd

PATIENT = {
    "PatientName": "Doe^Jane", "PatientID": "P-17", "PatientBirthDate": "19700102", "PatientSex": "F",
    "StudyDate": "20240305", "StudyTime": "101112", "StudyID": "S5", "AccessionNumber": "A9",
    "ReferringPhysicianName": "House^Gregory", "StudyDescription": "Head",
}  # fmt: skip
INSIDE = {"oodm": 0.01, "threshold": 0.05, "is_ood": False, "reason": None}


@dataclass
class Saved:
    """The files that were written, and the headers of the slices from which they were made."""

    seg: Any
    report: Any
    nifti: Any
    headers: list

    def labels(self):
        """The label map that the SEG holds, ``(columns, rows, slices)``."""
        uids = [header.SOPInstanceUID for header in self.headers]
        frames = self.seg.get_pixels_by_source_instance(
            uids, combine_segments=True, assert_missing_frames_are_empty=True
        )
        return frames.T

    def content(self):
        """Name -> value of the report's content, references aside."""
        return {
            item.name.meaning: item.value.meaning if item.value_type.value == "CODE" else item.value
            for item in self.report.content[0].ContentSequence
            if item.value_type.value != "IMAGE"
        }


@pytest.fixture
def patient():
    """The tags of patient and study in every slice."""
    return PATIENT


@pytest.fixture
def metadata_file(tmp_path):
    """Writes the metadata of a bundle called ``toy_ood`` and returns the path as text."""

    def write(classes=("organ",), **more):
        channels = {str(index): name for index, name in enumerate(("background", *classes))}
        content = {"name": "Toy segmentation", "version": "0.1.0", "authors": "Developers"}
        content["network_data_format"] = {"outputs": {"pred": {"channel_def": channels}}}
        path = tmp_path / "toy_ood" / "configs" / "metadata.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content | more), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def load_series(tmp_path, save_slice):
    """Writes slices, 3 mm apart, with the given tags, and loads them; files are named in the order of the list."""

    def load(slices=({},) * 4, **tags):
        for index, own in enumerate(slices):
            save_slice(tmp_path / "series" / f"{index}.dcm", 5 + 3 * index, **(PATIENT | own | tags))
        return LoadScand("image")({"image": str(tmp_path / "series"), "case": "p1"})["image"]

    return load


@pytest.fixture
def random_labels():
    """Makes labels ``(columns, rows, slices)`` for an image."""

    def make(image, classes=1):
        return np.random.default_rng(0).integers(0, classes + 1, tuple(image.shape[1:])).astype(np.uint8)

    return make


@pytest.fixture
def save(tmp_path, metadata_file):
    """Saves labels ``(columns, rows, slices)`` of an image, and reads everything back, or returns the error."""

    def run(image, labels, result=INSIDE, **metadata):
        classes = metadata.pop("classes", ("organ",))
        transform = SaveSegmentationd(
            "pred", str(tmp_path / "out"), output_format="dicom_seg", metadata_file=metadata_file(classes, **metadata)
        )
        pred = MetaTensor(torch.as_tensor(labels)[None], meta=image.meta)
        data = {"pred": pred, "image": image, "case": "p1", "result": result}
        saved = transform(data)
        error = saved.pop("error", None)
        assert saved.keys() == data.keys()
        assert all(saved[key] is data[key] for key in data)
        return error or read_back(tmp_path / "out" / "p1", image)

    return run


def read_back(folder, image):
    with disable_value_validation():
        files = json.loads(image.meta["series_files"])
        return Saved(
            seg=hd.seg.segread(folder / "p1_seg.dcm"),
            report=hd.sr.srread(folder / "p1_report.dcm"),
            nifti=nib.load(folder / "p1_seg.nii.gz"),
            headers=[pydicom.dcmread(file, stop_before_pixels=True) for file in files],
        )
