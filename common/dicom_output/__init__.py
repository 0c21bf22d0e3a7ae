"""DICOM output: a segmentation that refers to its source series, and a report of the verdict."""

from .describe import BundleDescription, Segment, describe_bundle, series_description, verdict_text
from .write import check_dicom_output, write_dicom

__all__ = [
    "BundleDescription",
    "Segment",
    "check_dicom_output",
    "describe_bundle",
    "series_description",
    "verdict_text",
    "write_dicom",
]
