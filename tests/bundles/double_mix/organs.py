"""Scans of two organs for the tests of ``double_mix``, and what a run leaves."""

import json
from pathlib import Path

import numpy as np

BUNDLE = Path(__file__).resolve().parents[3] / "bundles" / "double_mix"


def two_organs(_index, image, label):
    second = np.zeros_like(label)
    second[11:14, 9:12, 8:11] = 1
    label = np.where((second > 0) & (label > 0), 2, label).astype(np.uint8)
    return {"imagesTr": ((image + 60 * (label == 2)).astype(np.float32), np.eye(4)), "labelsTr": (label, np.eye(4))}


def listing(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def relabel(folder, make_dataset, classes, edit=two_organs, count=6):
    """A folder whose listing names the given classes."""
    made = make_dataset(folder, count, edit=edit)
    content = json.loads((made / "dataset.json").read_text())
    content["labels"] = {str(value): f"organ {value}" if value else "background" for value in classes}
    (made / "dataset.json").write_text(json.dumps(content))
    return made
