"""A tiny pair of networks, batches and steps for the tests of co-training."""

import torch
from monai.engines import SupervisedTrainer
from torch import nn

from common.class_weights import make_class_weight
from common.double_mix.losses import WeightedSegmentationLoss
from common.double_mix.mixing import make_mixing
from common.double_mix.network import CoTrainedPair
from common.double_mix.step import CoTrainingStep, GaussianRamp
from common.networks.averaging import EMANetwork

CLASSES = 3

SLIDES = {"cross_loss": "dice_cross_entropy", "mixed_loss": "cross_entropy", "mixed_weight": 1.0, "mix_start": 0.0}
SLIDES |= {"min_weight": 0.0, "weight_scale": "maximum"}
"""The form of the source's text."""


def tiny_network(**_settings):
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, CLASSES, 1))


def make_pair(seed=0):
    torch.manual_seed(seed)
    return CoTrainedPair(tiny_network)


def make_batch(seed=0, half=2):
    generator = torch.Generator().manual_seed(seed)
    image, unlabeled = (torch.randn(half, 1, 8, 6, generator=generator) for _ in range(2))
    return {
        "image": image,
        "label": torch.randint(0, CLASSES, (half, 1, 8, 6), generator=generator),
        "unlabeled": unlabeled,
    }


def make_step(network, *, weights=("none", "none"), mixing="none", **settings):
    first, second = (make_class_weight(name, CLASSES) for name in weights)
    settings = {"ema": EMANetwork(network), "ramp": GaussianRamp(1.0)} | SLIDES | settings
    generator = torch.Generator().manual_seed(5)
    return CoTrainingStep(
        network, WeightedSegmentationLoss(), first, second, mixing=make_mixing(mixing), generator=generator, **settings
    )


def make_trainer(network, step, batches, epochs=1):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    return SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=epochs, train_data_loader=batches, network=network, optimizer=optimizer,
        loss_function=step.loss, iteration_update=step, decollate=False,
    )  # fmt: skip
