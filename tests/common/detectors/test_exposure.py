"""Trainings that make a network unsure of other images."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Events
from torch import nn
from torch.testing import assert_close

from common.detectors.adversary import LATENT, AdversarialStep, PatchDiscriminator, PatchGenerator
from common.detectors.exposure import (
    ExposurePatches,
    ExposureStep,
    exposed_losses,
    exposure_cases,
    uniform_cross_entropy,
)
from common.errors import ConfigError, MissingDataError


def test_uniform_term_is_the_mean_of_minus_the_logarithms():
    logits = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    probability = logits.softmax(dim=1).numpy()
    assert uniform_cross_entropy(logits, softmax=True) == pytest.approx(-np.log(probability).mean())
    p = logits.sigmoid().numpy()
    assert uniform_cross_entropy(logits) == pytest.approx(-(np.log(p) + np.log(1 - p)).mean() / 2)


@pytest.mark.parametrize(("softmax", "least"), [(True, math.log(3)), (False, math.log(2))])
def test_uniform_term_is_least_where_all_is_equally_probable(softmax, least):
    zeros = torch.zeros(1, 3, 2, 2, requires_grad=True)
    loss = uniform_cross_entropy(zeros, softmax=softmax)
    loss.backward()
    assert loss.detach() == pytest.approx(least)
    assert_close(zeros.grad, torch.zeros_like(zeros))
    sure = torch.tensor([4.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
    assert uniform_cross_entropy(sure, softmax=softmax) > least


def cases(**counts):
    return [{"case": f"{task}{k}", "task": task, "label": "x"} for task, n in counts.items() for k in range(n)]


def ramp(case):
    """An image whose values tell case and place."""
    assert "label" not in case
    return case | {"image": torch.arange(60.0).reshape(1, 6, 10) + 100 * (case["task"] == "b")}


def test_patches_are_pieces_of_images_of_all_data_sets_alike():
    patches = ExposurePatches(cases(a=30, b=1), [ramp], (4, 3))
    drawn = patches.draw(200, torch.Generator().manual_seed(0))
    assert drawn.shape == (200, 1, 4, 3)
    assert 70 < int((drawn[:, 0, 0, 0] >= 100).sum()) < 130
    corner = drawn[:, :, :1, :1]
    offsets = torch.arange(4.0)[:, None] * 10 + torch.arange(3.0)
    assert_close(drawn - corner, offsets.expand_as(drawn))
    assert len(set(corner.flatten().tolist())) > 20
    assert torch.equal(drawn, patches.draw(200, torch.Generator().manual_seed(0)))


def test_small_images_are_filled_up_with_zeros():
    drawn = ExposurePatches(cases(b=1), [ramp], (8, 10)).draw(1, torch.Generator())
    assert_close(drawn[0, 0, 1:7], torch.arange(60.0).reshape(6, 10) + 100)
    assert not drawn[0, 0, [0, 7]].any()


def test_images_are_given_or_phantoms_beside_phantoms(tmp_path, decathlon_folder):
    folder = decathlon_folder(names=("a", "b", "c"))
    found = exposure_cases(str(folder), "data", str(tmp_path), cases_per_folder=2)
    assert [case["case"] for case in found] == ["a", "b"]
    with pytest.raises(ConfigError, match="exposure_dir is empty; give folders"):
        exposure_cases(None, "data", str(tmp_path))
    with pytest.raises(MissingDataError, match=r"exposure_dir .*none does not exist"):
        exposure_cases([str(tmp_path / "none")], "data", str(tmp_path))


def make_engine(network, iteration=1):
    """What steps need of MONAI's trainer."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    state = SimpleNamespace(device=torch.device("cpu"), epoch=1, iteration=iteration, output=None, terms={})
    return SimpleNamespace(
        state=state, network=network, optimizer=optimizer, non_blocking=False,
        loss_function=nn.BCEWithLogitsLoss(), fire_event=lambda event: Events,
    )  # fmt: skip


def make_batch(size=(8, 8)):
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(2, 1, *size, generator=generator)
    return {"image": image, "label": (image > 0).float(), "case": ["a", "b"]}


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))


class TestExposure:
    def make(self, **settings):
        patches = ExposurePatches(cases(b=2), [ramp], (6, 6))
        return ExposureStep(patches, **settings)

    def test_a_step_follows_both_terms(self):
        network, batch = make_network(), make_batch()
        expected = copy.deepcopy(network)
        step = self.make(exposure_weight=0.3, seed=4)
        other = []
        draw = step.patches.draw
        step.patches.draw = lambda *args: other.append(draw(*args)) or other[-1]
        terms = step(make_engine(network), batch)
        losses = exposed_losses(expected, {**batch, "other": other[0]}, loss=nn.BCEWithLogitsLoss(), weight=0.3)
        assert_close(terms["exposure"], 0.3 * uniform_cross_entropy(expected(other[0])).detach())
        assert_close(terms["loss"], (losses["segmentation"] + losses["exposure"]).detach())
        sum(losses.values()).backward()
        for after, before in zip(network.parameters(), expected.parameters(), strict=True):
            assert_close(after, before - 0.1 * before.grad)

    def test_draws_depend_on_the_iteration_alone(self):
        found = [self.make()(make_engine(make_network(), k), make_batch())["exposure"] for k in (1, 1, 2)]
        assert found[0] == found[1]
        assert found[0] != found[2]

    def test_training_makes_the_network_unsure_of_other_images(self):
        network, step = make_network(), self.make(exposure_weight=2.0)
        losses = [float(step(make_engine(network, k), make_batch())["exposure"]) / 2 for k in range(1, 41)]
        assert losses[-1] < 0.75 < losses[0]

    def test_weights_below_zero_are_refused(self):
        with pytest.raises(ConfigError, match="exposure_weight is -1"):
            self.make(exposure_weight=-1)


class TestAdversary:
    def make(self, **settings):
        return AdversarialStep(2, 1, (8, 8), **settings)

    @pytest.mark.parametrize("size", [(8, 16), (8, 16, 24)])
    def test_patches_have_the_size_of_the_training_s(self, size):
        torch.manual_seed(0)
        patches = PatchGenerator(len(size), 2, size)(torch.randn(3, LATENT))
        assert patches.shape == (3, 2, *size)
        assert PatchDiscriminator(len(size), 2)(patches).shape == (3, 1)

    def test_sizes_that_do_not_fit_are_refused(self):
        with pytest.raises(ConfigError, match=r"roi_size is \[8, 1\]; .* multiples of 8"):
            AdversarialStep(2, 1, (8, 1))
        with pytest.raises(ConfigError, match="adversary_rate is 0"):
            self.make(adversary_rate=0)

    def test_discriminator_learns_to_tell_images_from_generated_ones(self):
        step = self.make(adversary_rate=0.005)
        images, other = make_batch()["image"] + 3, make_batch()["image"] - 3
        for _ in range(60):
            step.train_discriminator(images, other)
        assert (step.discriminator(images) > 0).all()
        assert (step.discriminator(other) < 0).all()

    def test_generator_learns_to_make_the_network_unsure_and_leaves_its_weights(self):
        step, network = self.make(adversary_rate=0.005, exposure_weight=100.0), make_network()
        nn.init.constant_(network[-1].bias, 3.0)
        before = copy.deepcopy(network.state_dict())
        noise = torch.randn(4, LATENT, generator=torch.Generator().manual_seed(0))
        first = float(uniform_cross_entropy(network(step.generator(noise))).detach())
        for _ in range(60):
            step.train_generator(network, step.generator(noise))
        assert float(uniform_cross_entropy(network(step.generator(noise))).detach()) < first - 0.2
        assert_close(network.state_dict(), before)
        assert all(parameter.grad is None for parameter in network.parameters())

    def test_each_step_changes_all_three(self):
        step, network = self.make(), make_network()
        members = [network, step.generator, step.discriminator]
        before = [copy.deepcopy(member.state_dict()) for member in members]
        terms = step(make_engine(network), make_batch())
        assert set(terms) == {"loss", "segmentation", "exposure"}
        for member, old in zip(members, before, strict=True):
            assert any(not torch.equal(value, old[name]) for name, value in member.state_dict().items())

    def test_a_resumed_step_goes_on_as_an_uninterrupted_one(self):
        whole, network = self.make(), make_network()
        whole(make_engine(network, 1), make_batch())
        state, weights = copy.deepcopy(whole.state_dict()), copy.deepcopy(network.state_dict())
        expected = whole(make_engine(network, 2), make_batch())
        resumed, other = self.make(seed=0), make_network()
        resumed.load_state_dict(state)
        other.load_state_dict(weights)
        assert resumed(make_engine(other, 2), make_batch()) == expected
        assert_close(other.state_dict(), network.state_dict())

    def test_first_weights_leave_the_global_generator_alone(self):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        self.make()
        assert torch.equal(torch.get_rng_state(), before)
