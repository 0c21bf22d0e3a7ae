"""Reads NIfTI as its header says and not otherwise: the place of the voxels, their number, their checksum."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
from monai.data import NibabelReader
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from ..errors import ImageError
from ..runtime.sources import data_file
from .file_reader import FileReader
from .limits import MAX_VOXELS, check_size, damaged
from .nifti_geometry import Header, check_geometry, geometry_text, image_kind
from .stream import CHUNK, DAMAGE, opened, read_exactly

MAX_HEADER = 2**26
"""Most bytes in front of the voxels, header and extensions together."""

SIZES: dict[int, type[Any]] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
"""Size of the header in bytes, its first number -> its kind."""

BEYOND = "holds more than the voxels that its header declares; copy it again, or save it anew"


class NiftiReader(FileReader, NibabelReader):
    """MONAI's reader for one NIfTI file, with the checks it lacks, and without its corrections of the header.

    Where spacing and affine disagree, MONAI's reader rewrites the affine in silence, and so moves the image.
    """

    def read_file(self, path: str | Path, **_kwargs: Any) -> Any:
        """Returns the nibabel image of a file, see :func:`read_nifti`; there are no other options."""
        return read_nifti(path, max_voxels=self.max_voxels)

    def get_data(self, img: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Returns the voxels and MONAI's metadata, with ``nifti_geometry``: what a mask in the same place needs."""
        array, meta = super().get_data(img)
        return array, meta | {"nifti_geometry": geometry_text(img.header)}


def read_nifti(path: str | Path, *, max_voxels: int = MAX_VOXELS) -> Any:
    """Returns the nibabel image of a ``.nii``, ``.nii.gz`` or ``.hdr`` file, voxels read and checksum verified.

    The affine is that of the sform if its code is set, else that of the qform, else that of the spacing alone. From the
    spacing, nibabel has the first axis point to the left and the center of the image at the origin.

    Args:
        path: Path of the file, or of the header of a pair.
        max_voxels: Most voxels that the header may declare, at least 1; 500 million by default. Nothing is decompressed
            beyond those declared.

    Raises:
        ImageError: When the file is damaged, holds no real numbers, declares too many voxels, or its geometry is not
            valid. The message goes on after the name of the image.
        OSError: When the file cannot be opened.
    """
    voxels = data_file(path)
    pair = voxels is not None
    try:
        with opened(_header_path(path) if pair else path) as stream:
            header = _read_header(stream, pair)
            check_size(header.get_data_shape(), max_voxels)
            _check_numbers(header, pair)
            check_geometry(header)
            array = None if pair else _read_voxels(stream, header)
        if voxels is not None:
            with opened(voxels) as stream:
                array = _read_voxels(stream, header)
    except DAMAGE as error:
        reason = "it ends early" if isinstance(error, EOFError) else "its compressed content is not what was written"
        raise damaged(reason) from error
    return image_kind(header)(array, header.get_best_affine(), header)


def _header_path(path: str | Path) -> str:
    """The header of a pair of which one file is given."""
    stem, suffix = os.path.splitext(path)
    return stem + (".HDR" if suffix.isupper() else ".hdr")


def _read_header(stream: BinaryIO, pair: bool) -> Header:
    """The header of a file as it is written, without nibabel's corrections."""
    start = stream.read(4)
    sizes = {int.from_bytes(start, order) for order in ("little", "big")}  # type: ignore[arg-type]
    kind = next((SIZES[size] for size in sizes if size in SIZES), None)
    if kind is None or len(start) < 4:
        raise damaged("it is no NIfTI image")
    rest = read_exactly(stream, kind.template_dtype.itemsize - 4)
    header = kind(binaryblock=start + rest.tobytes(), check=False)
    if header["magic"].item().rstrip(b"\0") != (header.pair_magic if pair else header.single_magic).rstrip(b"\0"):
        raise ImageError(
            f"is no NIfTI image in {'two files' if pair else 'one file'}, against its name; save it as .nii.gz"
        )
    if not 1 <= int(header["dim"][0]) <= 7:
        raise ImageError(f"declares {int(header['dim'][0])} axes; accepted are 1 to 7: copy it again, or save it anew")
    # nibabel takes -1 for a sign of an old FreeSurfer file.
    check_size(header["dim"][1 : 1 + int(header["dim"][0])], 2**63)
    return header


def _check_numbers(header: Header, pair: bool) -> None:
    """Raises when voxels are not one real number each, or their place in the file or their scale is not valid."""
    code = int(header["datatype"])
    if code not in nib.nifti1.data_type_codes.value_set("code"):
        raise damaged(f"its numbers are of the unknown type {code}")
    dtype = header.get_data_dtype()
    if dtype.kind == "c":
        raise ImageError("holds complex numbers; save the magnitude, or whatever part the network was trained on")
    if dtype.kind not in "iuf":
        raise ImageError("holds colors or single bits; save gray values")
    offset = float(header["vox_offset"])
    first = 0 if pair else header.single_vox_offset
    if not (offset.is_integer() and first <= offset <= MAX_HEADER):
        raise ImageError(f"says that its voxels begin at byte {offset:g}, which cannot be; save it anew")
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    # NaN and 0 mean that numbers are not scaled.
    if math.isinf(slope) or (slope and not math.isnan(slope) and not math.isfinite(inter)):
        raise ImageError(f"scales its numbers by {slope:g} and {inter:g}, which cannot be; save it anew")


def _read_voxels(stream: BinaryIO, header: Header) -> NDArray[Any]:
    """The scaled voxels, after which the stream must end."""
    skipped = stream.tell()
    while skipped < int(header["vox_offset"]):
        skipped += len(read_exactly(stream, min(CHUNK, int(header["vox_offset"]) - skipped)))
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    content = read_exactly(stream, math.prod(shape) * dtype.itemsize)
    # To be at the end also is what makes gzip compare checksum and length.
    if stream.read(1):
        raise ImageError(BEYOND)
    slope, inter = header.get_slope_inter()
    raw = content.view(dtype).reshape(shape, order="F")
    return apply_read_scaling(raw, 1.0 if slope is None else slope, 0.0 if inter is None else inter)
