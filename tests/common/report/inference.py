"""An inference without a network, and what its report says."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from common.denoising import LoadSliced
from common.engine.cases import CaseDataset
from common.handlers import OODReport
from common.handlers.verdicts import COLUMNS
from common.transforms import LoadScand, SaveSegmentationd

KNOWN = {"oodm": 0.1, "threshold": 0.25, "is_ood": False, "reason": None}


STRANGE = {"oodm": 0.5, "threshold": 0.25, "is_ood": True, "reason": None}


NONE = {"oodm": None, "threshold": None, "is_ood": None, "reason": "no signature bank"}


AFFINE = np.array([[0, 0, 2.0, 0], [-1, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 1]])


class Inference:
    """What a bundle's inference does, with verdicts given by the case's name; ``fails`` names what raises for it."""

    def __init__(self, folder, bank_file, cases, verdicts=None, *, fails=None, **settings):
        self.folder, self.verdicts, self.fails, self.seen = folder, verdicts or {}, fails or {}, []
        self.report = OODReport(str(folder), bank_file, load=LoadSliced("image"), **settings)
        self.save = SaveSegmentationd("pred", str(folder), report=self.report)
        dataset = CaseDataset(cases, LoadScand("image"), report=self.report)
        self.engine = Engine(self.step)
        self.engine.data_loader = SimpleNamespace(dataset=dataset)
        self.report.attach(self.engine)
        self.dataset = dataset

    def step(self, engine, index):
        batch = self.dataset[index]
        engine.state.batch = [batch]
        if "done" in batch or "error" in batch:
            return [{key: batch[key] for key in ("done", "error") if key in batch}]
        name = batch["case"]
        self.seen.append(name)
        error = self.fails.get(name)
        if isinstance(error, BaseException):
            raise error
        if error:
            return [{"error": error}]
        pred = MetaTensor((batch["image"] > 0.7).to(torch.uint8), meta=batch["image"].meta)
        result = self.verdicts.get(name, KNOWN)
        return [self.save({"case": name, "image": batch["image"], "pred": pred, "result": result})]

    def run(self):
        self.engine.run(range(len(self.dataset)))
        self.report.finish()
        return self


def rows_of(folder):
    """The rows, after making sure that both files hold the same."""
    with open(folder / "ood_report.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    content = json.loads((folder / "ood_report.json").read_text())
    as_text = [{key: "" if value is None else str(value) for key, value in row.items()} for row in content["rows"]]
    assert as_text == table
    assert not [row for row in content["rows"] if tuple(row) != COLUMNS]
    return content["rows"]


def names_of(folder):
    return [row["image"] for row in rows_of(folder)]


def masks_of(folder):
    return sorted(path.parent.name for path in folder.glob("*/*_seg.nii.gz"))


def row(name, result=KNOWN, error=None):
    return {key: result.get(key) for key in COLUMNS} | {"image": name, "error": error}
