"""NIfTI files of which every field, extension and byte may be anything, drawn by hypothesis."""

import gzip
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from hypothesis import strategies as st

from tests.fuzzing.edits import EDITS, edited

FLOATS = [0, 1, -1, 0.5, 2, 348, 352, 544, 1e3, 1e7, 1e9, 1e30, -1e30, 1e-30, 1e-45, np.nan, np.inf, -np.inf]
WHOLE = [0, 1, -1, 2, 3, 4, 5, 7, 8, 9, 10, 16, 100, 127, 255, 348, 540, 1000, 2**15 - 1, -(2**15), 2**31 - 1, 2**62]
TYPES = [0, 1, 2, 4, 8, 16, 32, 64, 128, 255, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, -1]
"""Every number of a kind of voxels that NIfTI knows, complex, color and 128-bit ones among them, and others."""
GEOMETRY = (
    "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip
VOXELS = ("dim", "datatype", "bitpix", "vox_offset", "scl_slope", "scl_inter", "sizeof_hdr", "magic")
KINDS = {1: nib.Nifti1Header, 2: nib.Nifti2Header}


@dataclass(frozen=True)
class Scan:
    """A NIfTI file that differs from a sound one: fields of the header, extension, order of bytes, length, damage."""

    version: int
    fields: list
    swapped: bool
    extension: bytes
    missing: int
    edits: list
    compressed: bool
    tail: int

    @property
    def ending(self):
        return ".nii.gz" if self.compressed else ".nii"

    def content(self, voxels):
        """The bytes of the file."""
        header = KINDS[self.version]()
        header.set_data_shape(voxels.shape)
        header.set_data_dtype(voxels.dtype)
        header["magic"] = header.single_magic
        header["vox_offset"] = header.single_vox_offset + (len(self.extension) if self.extension else 0)
        header.set_sform(np.diag([1.5, 2, 3, 1]), code=1)
        for name, index, value in self.fields:
            field = header._structarr[name]
            if field.shape:
                field[index % field.size] = value
            else:
                header._structarr[name] = value
        structure = header._structarr.byteswap() if self.swapped else header._structarr
        voxels = voxels.byteswap() if self.swapped else voxels
        mark = b"\1\0\0\0" if self.extension else bytes(4)
        content = structure.tobytes() + mark + self.extension + voxels.tobytes(order="F")
        content = content[: len(content) - self.missing] + bytes(self.tail)
        # Damage is done to what lies on the disk.
        return edited(gzip.compress(content, 1, mtime=0) if self.compressed else content, self.edits)


def _values(dtype):
    """Values of one number or text of a header."""
    if dtype.kind == "S":
        return st.sampled_from([b"", b"n+1", b"ni1", b"n+2", b"n+1\0\xff"]) | st.binary(max_size=dtype.itemsize)
    if dtype.kind == "f":
        most = float(np.finfo(dtype).max)
        return st.sampled_from([x for x in FLOATS if not abs(x) > most or np.isinf(x)]) | st.floats(
            width=8 * dtype.itemsize
        )
    limits = np.iinfo(dtype)
    edges = [value for value in [*WHOLE, *TYPES] if limits.min <= value <= limits.max]
    return st.sampled_from(edges) | st.integers(int(limits.min), int(limits.max))


def _fields(version):
    """A field of the header, the place in it, and what stands there; what decides how a file is read comes most."""
    template = KINDS[version].template_dtype

    def named(names):
        return st.sampled_from(names).flatmap(
            lambda name: st.tuples(st.just(name), st.integers(0, 7), _values(template[name].base))
        )

    return named(GEOMETRY) | named(VOXELS) | named(template.names)


def _scan(version):
    fields = st.lists(_fields(version), min_size=1, max_size=3)
    rarely = st.integers(0, 5)
    return st.builds(
        Scan,
        version=st.just(version),
        fields=rarely.flatmap(lambda n: fields if n < 5 else st.just([])),
        swapped=rarely.map(lambda n: n == 5),
        extension=rarely.flatmap(lambda n: st.binary(min_size=1, max_size=40) if n == 5 else st.just(b"")),
        missing=rarely.flatmap(lambda n: st.integers(1, 1800) if n == 5 else st.just(0)),
        edits=rarely.flatmap(lambda n: st.lists(EDITS, min_size=1, max_size=2) if n == 5 else st.just([])),
        compressed=st.booleans(),
        tail=rarely.flatmap(lambda n: st.sampled_from([1, 5000, 2**26]) if n == 5 else st.just(0)),
    )


SCANS = st.lists(_scan(1) | _scan(1) | _scan(2), min_size=10, max_size=14)
"""So many files, since a run of one takes hardly less time than a run of all."""
