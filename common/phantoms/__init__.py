"""Makes phantom scans, pictures and brains on the spot, so that everything runs without data."""

from .volumes import PHANTOM_TASKS, ood_tasks, phantom_dataset, phantom_scan

__all__ = [
    "PHANTOM_TASKS",
    "ood_tasks",
    "phantom_dataset",
    "phantom_scan",
]
