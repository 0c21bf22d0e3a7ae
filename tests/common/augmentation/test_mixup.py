"""Mixed pairs of images and labels, and the training step on them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from torch import nn
from torch.testing import assert_close

from common.augmentation import draw_pairs, mix_pairs
from common.engine.mixup import MixupStep
from common.errors import ConfigError


def test_images_and_labels_are_mixed_alike():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(3, 2, 4, 5, generator=generator), torch.randint(2, (3, 1, 4, 5), generator=generator)
    partners, shares = torch.tensor([2, 1, 0]), torch.tensor([1.0, 0.25, 0.6], dtype=torch.float64)
    mixed, soft = mix_pairs(images, labels, partners, shares)
    for index, (partner, share) in enumerate(zip([2, 1, 0], [1.0, 0.25, 0.6], strict=True)):
        assert_close(mixed[index], share * images[index] + (1 - share) * images[partner])
        assert_close(soft[index], share * labels[index].float() + (1 - share) * labels[partner].float())
    assert mixed.dtype == soft.dtype == torch.float32


def test_shares_follow_the_beta_distribution_and_partners_are_a_permutation():
    partners, shares = draw_pairs(20000, 0.2, torch.Generator().manual_seed(3))
    assert sorted(partners.tolist()) == list(range(20000))
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.02)
    # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    assert float(shares.var()) == pytest.approx(1 / (4 * 1.4), abs=0.005)
    again = draw_pairs(20000, 0.2, torch.Generator().manual_seed(3))
    assert_close(again, (partners, shares))


def test_step_trains_on_the_mixed_batch():
    network = nn.Conv2d(1, 1, 3, padding=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = SimpleNamespace(device=torch.device("cpu"), epoch=2, iteration=9, terms=None, output=None)
    engine = SimpleNamespace(
        state=state, network=network, loss_function=DiceLoss(sigmoid=True), non_blocking=False,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0), fire_event=lambda event: None,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    batch = {"image": torch.rand(4, 1, 6, 6, generator=generator), "case": ["a"]}
    batch["label"] = torch.rand(4, 1, 6, 6, generator=generator).round()
    step = MixupStep(mixup_alpha=1.0, seed=5)
    terms = step(engine, batch)
    network.load_state_dict(before)
    assert step(engine, batch)["loss"] == terms["loss"], "the same step draws the same"
    losses = []
    for iteration in range(10, 30):
        state.iteration = iteration
        network.load_state_dict(before)
        losses.append(float(step(engine, batch)["loss"]))
    assert len(set(losses)) == 20
    plain = float(
        DiceLoss(sigmoid=True)(nn.functional.conv2d(batch["image"], *before.values(), padding=1), batch["label"])
    )
    assert all(np.array(losses) != plain)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_parameter_must_be_above_zero(alpha):
    with pytest.raises(ConfigError, match=r"mixup_alpha is .*; accepted are numbers above 0"):
        MixupStep(mixup_alpha=alpha)
