"""Reads DICOM series from trees of folders, and writes DICOM segmentations and reports."""

from .describe import BundleDescription, Segment, describe_bundle, series_description, verdict_sentence
from .series import DicomSeriesReader
from .tree import DicomSeries, DicomTree, find_series
from .write import check_dicom_output, write_dicom

__all__ = [
    "BundleDescription",
    "DicomSeries",
    "DicomSeriesReader",
    "DicomTree",
    "Segment",
    "check_dicom_output",
    "describe_bundle",
    "find_series",
    "series_description",
    "verdict_sentence",
    "write_dicom",
]
