"""Images of more voxels than are accepted, or than the file holds, are refused before they take memory."""

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import ConfigError, ImageError
from common.transforms import LoadScand


class TestSize:
    @pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii"])
    def test_nifti(self, write_nifti, load, name):
        path = write_nifti(name)
        assert load(path, max_voxels=210).shape == (1, 5, 6, 7)
        with pytest.raises(ImageError, match=r"declares 5 x 6 x 7 voxels; accepted are 209 \(max_voxels\)"):
            load(path, max_voxels=209)

    @pytest.mark.parametrize("name", ["scan.mha", "scan.nrrd"])
    def test_itk(self, write_itk, load, name):
        path = str(write_itk(name))
        assert load(path, max_voxels=210).shape == (1, 5, 6, 7)
        with pytest.raises(ImageError, match=r"declares 5 x 6 x 7 voxels; accepted are 209 \(max_voxels\)"):
            load(path, max_voxels=209)

    @pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
    def test_pictures(self, tmp_path, load, suffix):
        path = str(tmp_path / f"a.{suffix}")
        Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(path)
        assert load(path, max_voxels=12).shape == (1, 4, 3)
        with pytest.raises(ImageError, match=r"declares 4 x 3 voxels; accepted are 11 \(max_voxels\)"):
            load(path, max_voxels=11)

    def test_picture_that_only_pillow_refuses(self, tmp_path, load, monkeypatch):
        path = str(tmp_path / "a.png")
        Image.fromarray(np.zeros((30, 40), dtype=np.uint8)).save(path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with pytest.raises(ImageError, match="declares more pixels than Pillow accepts"):
            load(path)

    @pytest.mark.parametrize("value", [0, -1, 1.5, "many", None])
    def test_setting_that_is_no_number_of_voxels(self, value):
        with pytest.raises(ConfigError, match=r"max_voxels is .*; accepted are whole numbers from 1"):
            LoadScand("image", max_voxels=value)

    @pytest.mark.tried(
        "Size and memory",
        "Headers that declare more than `max_voxels`",
        "A row with the reason; no voxel is read.",
    )
    def test_axes_that_are_declared_alone_take_no_memory(self, write_nifti, load):
        path = write_nifti(dim=[7, *[32767] * 7])
        assert refused_memory(load, path) < 4e6

    @pytest.mark.tried(
        "Size and memory",
        "Small `.nii.gz` that decompresses to far more than it declares",
        "A row with the reason; no more than declared is read.",
    )
    def test_bomb_is_not_decompressed_beyond_the_declared_voxels(self, write_nifti, load):
        path = Path(write_nifti("a.nii"))
        # 50 MB of zeros, in 50 kB, after the voxels.
        bomb = path.with_name("bomb.nii.gz")
        bomb.write_bytes(gzip.compress(path.read_bytes() + bytes(50_000_000), 9))
        assert bomb.stat().st_size < 2e5
        assert refused_memory(load, str(bomb)) < 8e6

    def test_compressed_payload_is_not_decompressed_beyond_the_declared_voxels(self, write_itk, load, tmp_path):
        content = write_itk("a.nrrd", compression=False).read_bytes()
        header, mark, payload = content.partition(b"\n\n")
        header = header.replace(b"encoding: raw", b"encoding: gzip")
        bomb = tmp_path / "bomb.nrrd"
        bomb.write_bytes(header + mark + gzip.compress(payload + bytes(50_000_000), 9))
        assert refused_memory(load, str(bomb)) < 8e6

    @pytest.mark.tried(
        "Size and memory",
        "Headers that declare voxels that the file does not hold",
        "A row with the reason; memory is taken as voxels come.",
    )
    def test_declared_voxels_that_are_not_there_take_no_memory(self, write_nifti, load):
        path = write_nifti(dim=[3, 700, 700, 700, 1, 1, 1, 1])
        tracemalloc_of_numpy = refused_memory(load, path)
        # Reserved, but never touched: the system gives memory out by the page.
        assert tracemalloc_of_numpy < 700**3 * 2 + 8e6


def refused_memory(load, path):
    """The most memory in use, in bytes, while a file is refused."""
    load_once = pytest.raises(ImageError)
    tracemalloc.start()
    try:
        with load_once:
            load(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
