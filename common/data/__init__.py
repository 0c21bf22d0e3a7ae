"""Where cases come from: Decathlon folders, folders of scans, DICOM series, phantoms."""

from .cases import class_names, labeled_cases, weights_folder
from .classwise import ClasswiseSplit, draw_frames
from .dicom import DicomSeriesReader
from .dicom_tree import DicomSeries, DicomTree, Skipped, find_series
from .halves import HalvesLoader, HalvesSampler
from .pairs import PairBatchSampler, PairLoader
from .phantoms import PHANTOM_TASKS, phantom_dataset, phantom_scan
from .presence import PresenceReader, frames_to_learn
from .scans import evaluation_cases, find_scans, phantom_test_cases, scans_to_segment
from .semi_supervised import SemiSupervisedSplit, cases_to_learn, draw_labeled, unlabeled_cases
from .split import CaseSplit, name_cases, select_cases, split_cases, training_cases, write_split

__all__ = [
    "PHANTOM_TASKS",
    "CaseSplit",
    "ClasswiseSplit",
    "DicomSeries",
    "DicomSeriesReader",
    "DicomTree",
    "HalvesLoader",
    "HalvesSampler",
    "PairBatchSampler",
    "PairLoader",
    "PresenceReader",
    "SemiSupervisedSplit",
    "Skipped",
    "cases_to_learn",
    "class_names",
    "draw_frames",
    "draw_labeled",
    "evaluation_cases",
    "find_scans",
    "find_series",
    "frames_to_learn",
    "labeled_cases",
    "name_cases",
    "phantom_dataset",
    "phantom_scan",
    "phantom_test_cases",
    "scans_to_segment",
    "select_cases",
    "split_cases",
    "training_cases",
    "unlabeled_cases",
    "weights_folder",
    "write_split",
]
