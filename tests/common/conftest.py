"""Builders of tiny data sets, shared by the tests of ``common``."""

import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from torch.utils._python_dispatch import TorchDispatchMode


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
def save_object():
    """Writes a DICOM object of a kind, without an image unless ``tags`` make one, and returns the path as text."""

    def save(path, kind, *, series="9.9", syntax=ExplicitVRLittleEndian, **tags):
        path.parent.mkdir(parents=True, exist_ok=True)
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = syntax
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = kind
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
        data.SeriesInstanceUID = series
        for name, value in tags.items():
            if value is not ...:
                setattr(data, name, value)
            elif name in data:
                delattr(data, name)
        data.save_as(path, enforce_file_format=True)
        return str(path)

    return save


@pytest.fixture
def save_slice(save_object):
    """Writes one DICOM slice of 4 rows and 6 columns whose pixels are ``arange(24) + 100 * z`` after the rescaling.

    Further tags replace those of the slice, or remove them with the value ``...``.
    """

    def save(path, z, *, kind=CTImageStorage, series="1.2.3", number=1, **tags):
        image = {
            "StudyInstanceUID": "1.2",
            "Modality": "CT",
            "InstanceNumber": number,
            "ImagePositionPatient": [10.0, 20.0, float(z)],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [0.7, 0.5],
            "Rows": 4,
            "Columns": 6,
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 1,
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
        } | tags
        if "PixelData" not in image:
            pixels = np.arange(image["Rows"] * image["Columns"], dtype=np.int16) + 1024 + 100 * int(z)
            image["PixelData"] = pixels.astype(np.int16).tobytes()
        return save_object(path, kind, series=series, **image)

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


class Waiting(TorchDispatchMode):
    """Collects the operators after which the host would wait for a device, and what they are applied to."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount", "equal", "is_nonzero")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        if name in self.NAMES:
            self.found.append((name, args[0]))
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="session")
def waiting_for_device():
    """A context that collects what a host would wait for."""
    return Waiting
