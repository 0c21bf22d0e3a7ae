"""Trainings in stages that tests of several files share."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanDice, ValidationHandler, from_engine
from monai.transforms import AsDiscreted
from monai.utils import set_determinism
from torch import nn

from common.engine.course import Course
from common.engine.training import Trainer
from common.handlers import BestWeights, EpochSeeder, TrainingProgress
from common.ood_mining import CandidateMiner, CombinedDiceLoss, PatchDataset, StagedTraining, prepare_patches
from common.sampling import PatchSampler
from tests.common.ood_mining.tiny import PATCH, SIZE, load, scale


@pytest.fixture
def cases(tmp_path):
    """Four pictures: a bright square to be found, and two bright spots outside of it that look like it."""
    made = []
    for number in range(4):
        rng = np.random.default_rng(number)
        label = np.zeros((1, SIZE, SIZE), dtype=np.uint8)
        label[0, 3 : 9 + number, 4:11] = 1
        bright = label.astype(np.float32)
        bright[0, 13:15, 1:3] = bright[0, 1:2, 13:15] = 0.7
        image = rng.normal(100 + 100 * bright, 10).astype(np.float32)
        np.savez(tmp_path / f"{number}.npz", image=image, label=label)
        made.append({"image": str(tmp_path / f"{number}.npz"), "case": f"case_{number}"})
    return made


@pytest.fixture
def make(cases, blank_pictures, tmp_path, caplog):
    """Makes a training of two epochs on the first three cases; ``make(ood_fraction=...)``. Its pictures are blank."""
    caplog.set_level(logging.INFO)

    def build(
        output="out", *, baseline_dir=None, epochs=2, resume=False, seed=0, handlers=(), network=None, **settings
    ):
        set_determinism(seed)
        folder = tmp_path / output
        network = network or nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)
        )
        dataset = PatchDataset(settings.pop("cases", cases[:3]), load, [scale], roi_size=[PATCH] * 2, seed=seed)
        optimizer = torch.optim.Adam(network.parameters(), settings.pop("rate", 0.05))
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1], 0.5)
        sampler = PatchSampler(dataset, seed=seed)
        best = BestWeights(network, folder / "models")
        evaluator = SupervisedEvaluator(
            device="cpu", network=network, val_data_loader=DataLoader([scale(load(case)) for case in cases[3:]]),
            postprocessing=lambda data: AsDiscreted(["pred", "label"], argmax=[True, False], to_onehot=2)(data),
            key_val_metric={"val_mean_dice": MeanDice(False, output_transform=from_engine(["pred", "label"]))},
        )  # fmt: skip
        best.attach(evaluator)
        progress = TrainingProgress(str(folder), evaluator, network, optimizer, schedule, best, resume=resume)
        seeder = EpochSeeder(seed, SimpleNamespace(set_random_state=lambda seed: None))
        every = [*handlers, seeder, ValidationHandler(settings.pop("val_interval", 1), evaluator)]
        trainer = Trainer(
            "cpu", max_epochs=epochs, network=network, optimizer=optimizer,
            train_data_loader=DataLoader(dataset, batch_size=2, sampler=sampler), loss_function=CombinedDiceLoss(),
            prepare_batch=prepare_patches, train_handlers=every, progress=progress,
        )  # fmt: skip
        chosen = {
            key: settings.pop(key)
            for key in ("ood_fraction", "target_ratio", "exact_fraction", "ratio_unit", "selection", "candidate_kinds")
            if key in settings
        }
        miner = CandidateMiner(dataset, network, "cpu", seed=seed, **chosen)
        training = StagedTraining(
            Course(trainer), miner, cases[3:],
            baseline_dir=str(tmp_path / baseline_dir) if baseline_dir else None, **settings,
        )  # fmt: skip
        training.folder = folder
        return training

    yield build
    set_determinism(None)
