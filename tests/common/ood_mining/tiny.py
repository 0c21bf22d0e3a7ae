"""Tiny pictures for the training in stages, and what a run leaves."""

import csv

import numpy as np
import torch

PATCH, SIZE = 8, 16


def load(case):
    with np.load(case["image"]) as arrays:
        return case | {key: torch.from_numpy(arrays[key]) for key in ("image", "label")}


def scale(data):
    return data | {"image": data["image"] / 100 - 1}


def weights(path):
    return torch.load(path, weights_only=True)


def stages(caplog):
    """What the log says of stages: ``name: starts`` or ``name: skipped``."""
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("stage ")]
    found = [line.removeprefix("stage ").split(",")[0].split(" (")[0] for line in lines if ": done" not in line]
    caplog.clear()
    return found


STARTED = [f"{name}: starts" for name in ("baseline", "mine", "select", "combine")]


SKIPPED = [f"{name}: skipped" for name in ("baseline", "mine", "select", "combine")]


def table(training):
    with open(training.baseline_dir / "ood_candidates.csv", newline="") as file:
        return list(csv.DictReader(file))
