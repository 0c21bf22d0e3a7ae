"""Checks the place of a NIfTI image in space when it is read, and gives it to the masks that are made of it."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from ..errors import ImageError
from .limits import check_affine

Header = Any
"""A ``Nifti1Header`` or a ``Nifti2Header``."""

CODES = range(6)
"""Codes of sform and qform that the standard defines; 0 says that there is none."""

MILLIMETER = (0, 2)
"""Accepted units of space: none named, and mm."""

FORMS_TOLERANCE = 0.1
"""Largest difference, in mm, at any corner of the image, of two readings that count as the same."""

QFORM_FIELDS = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
SFORM_FIELDS = ("srow_x", "srow_y", "srow_z")


def check_geometry(header: Header) -> None:
    """Makes sure that a header says in one way, and soundly, where the voxels lie; a missing qfac is set to 1.

    The sform counts if its code is set, else the qform, else the spacing alone.

    Args:
        header: Header as it is written in the file; changed in place where the standard defines what is not written.

    Raises:
        ImageError: When a code is not of the standard, or the unit is meters or micrometers. Also when the form that
            counts is not finite, not invertible, sheared or absurd. The message goes on after the name of the image.
    """
    codes = {name: int(header[f"{name}_code"]) for name in ("sform", "qform")}
    for name, code in codes.items():
        if code not in CODES:
            raise ImageError(f"has the {name} code {code}; accepted are 0 to 5: correct the header, or save it anew")
    if int(header["xyzt_units"]) % 8 not in MILLIMETER:
        raise ImageError("gives its geometry in meters or micrometers; save it in mm")
    if not codes["sform"]:
        _check_spacing(header)
    with np.errstate(all="ignore"):
        try:
            affine = header.get_best_affine()
        except (ValueError, HeaderDataError):
            raise ImageError("has a qform that is no rotation; correct the header, or save it with an sform") from None
    check_affine(affine)


def _check_spacing(header: Header) -> None:
    """Raises when spacing or qfac, on which qform and bare spacing rely, are not valid."""
    pixdim = header["pixdim"]
    for axis in range(1, 4):
        # Of an axis that a flat image does not have, nothing need be told.
        if not pixdim[axis] and axis > int(header["dim"][0]):
            pixdim[axis] = 1
    if not (np.isfinite(pixdim[1:4]).all() and pixdim[1:4].min() > 0):
        text = " x ".join(f"{value:g}" for value in pixdim[1:4])
        raise ImageError(f"has voxels of {text} mm; accepted are positive numbers: correct the header")
    if pixdim[0] not in (-1, 0, 1):
        raise ImageError(f"has the qfac {pixdim[0]:g}; accepted are -1 and 1: correct the header, or save it anew")
    pixdim[0] = pixdim[0] or 1


def forms_differ(header: Header) -> bool:
    """Returns whether parts of a header that readers rely on put a corner of the image to different places.

    nibabel takes the sform. ITK takes the spacing of ``pixdim``, and the qform unless the sform's code is 1.
    """
    if not int(header["sform_code"]):
        return False
    affine = header.get_sform()
    # Spacing that does not count may hold anything.
    with np.errstate(all="ignore"):
        spacing = header["pixdim"][1:4] / np.linalg.norm(affine[:3, :3], axis=0)
        readings = [affine * np.append(spacing, 1)]
        if int(header["qform_code"]):
            try:
                readings.append(header.get_qform())
            except (ValueError, HeaderDataError):
                return True
        corner = np.array([*[*header.get_data_shape(), 1, 1][:3], 1])
        differences = [np.abs(reading - affine)[:3] @ corner for reading in readings]
        # A comparison with NaN is false, so that it counts as a difference.
        return not all((difference <= FORMS_TOLERANCE).all() for difference in differences)


def geometry_text(header: Header) -> str:
    """Returns what a header says of the place of the voxels, as text that :func:`nifti_image` takes; nothing else.

    It is text since MONAI takes arrays in metadata apart when it makes batches.
    """
    kept = type(header)()
    kept.set_data_shape(header.get_data_shape()[:3])
    for name in ("sform_code", "qform_code", *QFORM_FIELDS, *SFORM_FIELDS):
        kept[name] = header[name]
    kept["pixdim"][:4] = header["pixdim"][:4]
    return kept.binaryblock.hex()


def geometry_header(text: str) -> Header:
    """Returns the header that :func:`geometry_text` made the text of."""
    block = bytes.fromhex(text)
    kind = nib.Nifti1Header if len(block) == nib.Nifti1Header.template_dtype.itemsize else nib.Nifti2Header
    return kind(binaryblock=block, check=False)


def nifti_image(array: NDArray[Any], affine: NDArray[np.float64], geometry: str = "") -> Any:
    """Returns a NIfTI image of an array, of which every reader finds the voxels in the same place.

    Args:
        array: Voxels ``(H, W[, D])``.
        affine: Affine ``(4, 4)`` from voxels to mm; not used with ``geometry``.
        geometry: Geometry of the image that the array was made of, see :func:`geometry_text`. The form that counts
            there is taken over bit by bit, with its code; the other form and the spacing are made to agree with it.
            Where both codes are 0 they stay 0, since readers differ about what that means. By default, both forms are
            ``affine``.
    """
    if not geometry:
        image = nib.Nifti1Image(array, affine)
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
        image.header.set_xyzt_units("mm")
        return image
    source = geometry_header(geometry)
    header = type(source)()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_xyzt_units("mm")
    best = source.get_best_affine()
    if code := int(source["sform_code"]):
        header.set_qform(best, code=code)
        fields: tuple[str, ...] = ("sform_code", *SFORM_FIELDS)
    else:
        if code := int(source["qform_code"]):
            header.set_sform(best, code=0)
        header["pixdim"][:4] = source["pixdim"][:4]
        fields = ("qform_code", *QFORM_FIELDS) if code else ()
    for name in fields:
        header[name] = source[name]
    return image_kind(header)(array, best, header)


def image_kind(header: Header) -> type[Any]:
    """Returns the nibabel class of images with such a header."""
    return nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
