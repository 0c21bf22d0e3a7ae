"""Makes phantom scans, pictures and brains on the spot, so that everything runs without data."""

from .volumes import PHANTOM_TASKS, phantom_dataset, phantom_scan, strange_tasks

__all__ = [
    "PHANTOM_TASKS",
    "phantom_dataset",
    "phantom_scan",
    "strange_tasks",
]
