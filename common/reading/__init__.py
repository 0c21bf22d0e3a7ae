"""Reads image files: what they declare is checked first, and nothing is corrected in silence."""

from .itk_reader import CheckedITKReader
from .limits import MAX_VOXELS, check_affine, check_size, plain_reason
from .mgh import MghReader
from .nifti import NiftiReader, read_nifti
from .nifti_geometry import forms_differ, geometry_header, nifti_image
from .picture_reader import PictureReader

__all__ = [
    "MAX_VOXELS",
    "CheckedITKReader",
    "MghReader",
    "NiftiReader",
    "PictureReader",
    "check_affine",
    "check_size",
    "forms_differ",
    "geometry_header",
    "nifti_image",
    "plain_reason",
    "read_nifti",
]
