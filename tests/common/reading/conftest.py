"""Builders of images of which the header may be anything."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from common.transforms import LoadScand, SaveSegmentationd

SHAPE = (5, 6, 7)


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16)


@pytest.fixture
def write_nifti(tmp_path, voxels):
    """Writes voxels below a header whose fields are set as they are, unchecked; returns the path as text."""

    def write(name="scan.nii.gz", array=None, *, kind=nib.Nifti1Header, forms=(), **fields):
        array = voxels if array is None else array
        header = kind()
        header.set_data_shape(array.shape)
        header.set_data_dtype(array.dtype)
        header["vox_offset"] = header.single_vox_offset
        header["magic"] = header.single_magic
        for form, affine, code in forms:
            getattr(header, f"set_{form}")(affine, code)
        for key, value in fields.items():
            header[key] = value
        content = header.binaryblock + bytes(4) + array.tobytes(order="F")
        path = tmp_path / name
        path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
        return str(path)

    return write


@pytest.fixture
def load():
    return lambda path, **settings: LoadScand("image", **settings)({"image": path, "case": "p1"})["image"]


@pytest.fixture
def saved_mask(load, tmp_path):
    """The path of the mask of an image, as inference saves it."""

    def save(path):
        image = load(path)
        SaveSegmentationd("pred", str(tmp_path / "out"))({"pred": (image > 500).to(image.dtype), "case": "p1"})
        return str(tmp_path / "out" / "p1" / "p1_seg.nii.gz")

    return save


@pytest.fixture
def write_itk(tmp_path, voxels):
    def write(name, *, compression=True, **settings):
        import itk

        image = itk.image_from_array(np.ascontiguousarray(voxels.T))
        itk.imwrite(image, str(tmp_path / name), compression=compression)
        return tmp_path / name

    return write
