"""Builders of tiny data sets, shared by the tests of ``common``."""

import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


@pytest.fixture
def save_nifti():
    """Writes an array as NIfTI and returns the path as text."""

    def save(path, array, affine=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
        return str(path)

    return save


@pytest.fixture
def decathlon_folder(tmp_path):
    """Makes a Decathlon folder of empty files; ``items`` may add keys to the entries of the listing."""

    def make(name="organ", names=("a", "b", "c"), items=None, **description):
        folder = tmp_path / name
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)
            for case in names:
                (folder / part / f"{case}.nii.gz").touch()
        training = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in names]
        for entry, extra in zip(training, items or (), strict=False):
            entry.update(extra)
        (folder / "dataset.json").write_text(json.dumps({"training": training} | description))
        return folder

    return make


@pytest.fixture
def save_slice():
    """Writes one DICOM slice of 4 rows and 6 columns whose pixels are ``arange(24) + 100 * z`` after the rescaling."""

    def save(path, z, *, series="1.2.3", number=1, **tags):
        path.parent.mkdir(parents=True, exist_ok=True)
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
        data.SeriesInstanceUID, data.Modality, data.InstanceNumber = series, "CT", number
        data.ImagePositionPatient = [10.0, 20.0, float(z)]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing = [0.7, 0.5]
        data.Rows, data.Columns = 4, 6
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation, data.SamplesPerPixel, data.PhotometricInterpretation = 1, 1, "MONOCHROME2"
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        for name, value in tags.items():
            setattr(data, name, value)
        pixels = np.arange(data.Rows * data.Columns, dtype=np.int16).reshape(data.Rows, data.Columns)
        data.PixelData = (pixels + 1024 + 100 * int(z)).astype(np.int16).tobytes()
        data.save_as(path, enforce_file_format=True)
        return str(path)

    return save


@pytest.fixture
def ranks(monkeypatch):
    """Lets a module believe that it runs as one of several processes."""

    def pretend(module, rank, size):
        monkeypatch.setattr(module, "process_rank", lambda: rank)
        monkeypatch.setattr(module, "world_size", lambda: size)

    return pretend


@pytest.fixture
def run_cases():
    """Runs an engine that reports the given pairs of what describes a case and what came out, for a recorder."""
    from ignite.engine import Engine  # warns while it is imported, which only tests may

    def run(recorder, reported):
        def step(engine, pair):
            engine.state.batch = [pair[0]]
            return [pair[1]]

        engine = Engine(step)
        recorder.attach(engine)
        engine.run(reported)
        return engine

    return run


@pytest.fixture
def read_picture():
    """Reads a PNG as ``(H, W, 3)``, after making sure that it is one and shows something."""

    def read(path):
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            pixels = np.asarray(picture.convert("RGB"))
        assert min(pixels.shape[:2]) > 100
        assert len(np.unique(pixels @ (1 << 16, 1 << 8, 1))) > 5
        return pixels

    return read
