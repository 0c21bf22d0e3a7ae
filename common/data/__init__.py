"""Finds cases: in Decathlon folders, folders of scans and DICOM series, or as phantoms."""

from .cases import class_names, labeled_cases, weights_folder
from .classes import named_classes
from .folders import find_scans
from .scans import evaluation_cases, phantom_test_cases, scans_to_segment
from .semi_supervised import SemiSupervisedSplit, cases_to_learn, draw_labeled, hidden_cases, unlabeled_cases
from .split import CaseSplit, name_cases, select_cases, split_cases, training_cases, write_split

__all__ = [
    "CaseSplit",
    "SemiSupervisedSplit",
    "cases_to_learn",
    "class_names",
    "draw_labeled",
    "evaluation_cases",
    "find_scans",
    "hidden_cases",
    "labeled_cases",
    "name_cases",
    "named_classes",
    "phantom_test_cases",
    "scans_to_segment",
    "select_cases",
    "split_cases",
    "training_cases",
    "unlabeled_cases",
    "weights_folder",
    "write_split",
]
