"""Training with the steps of co-training: its course, its averages, and what is refused."""

import math
from copy import deepcopy

import pytest
import torch
from ignite.engine import Engine, Events
from torch.testing import assert_close

from common.double_mix.step import GaussianRamp
from common.engine.schedules import make_schedule
from common.errors import ConfigError
from common.handlers import BestWeights, TrainingProgress
from tests.common.cotrained import CLASSES, make_batch, make_pair, make_step, make_trainer


def test_ramp_follows_the_formula_up_to_its_maximum():
    ramp = GaussianRamp(0.5)
    for epoch in (1, 7, 20):
        assert ramp(epoch / 20) == pytest.approx(0.5 * math.exp(-5 * (1 - epoch / 20) ** 2))
    assert ramp(1.0) == 0.5
    with pytest.raises(ConfigError, match="theta_max is -1"):
        GaussianRamp(-1)


class TestCourse:
    """What happens when, counted in iterations of the whole training."""

    def course(self, epochs=2, **settings):
        network, seen = make_pair(), []
        step = make_step(network, mixing="Double-Mix", **settings)
        trainer = make_trainer(network, step, [make_batch(seed) for seed in range(5)], epochs=epochs)
        thetas = []
        step.ramp = lambda share: thetas.append(share) or 0.1
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda engine: seen.append(float(engine.state.output["mixed"]))
        )
        trainer.run()
        return seen, thetas

    @pytest.mark.parametrize(("start", "without"), [(0.0, 0), (0.2, 2), (0.5, 5), (1.0, 10)])
    def test_mixing_starts_after_a_share_of_the_training(self, start, without):
        mixed, _ = self.course(mix_start=start)
        assert [value > 0 for value in mixed] == [False] * without + [True] * (10 - without)

    def test_ramp_is_given_the_share_of_the_training(self):
        _, shares = self.course()
        assert shares == pytest.approx([number / 10 for number in range(1, 11)])


class TestAverageThatIsValidated:
    """Whoever teaches, the average that may be validated is one over all steps."""

    @pytest.mark.parametrize(
        ("settings", "own"),
        [
            ({}, True),
            ({"teaching": "mean_teacher"}, True),
            ({"teaching": "none", "mixing": "CutMix"}, True),
            ({"teacher": "students"}, False),
            ({"teaching": "none"}, False),
        ],
    )
    def test_step_offers_its_average_only_where_it_moves_it(self, settings, own, tmp_path):
        network = make_pair()
        step = make_step(network, **settings)
        assert (step.moved_average is step.ema) == own
        trainer = make_trainer(network, step, [make_batch(seed) for seed in range(3)], epochs=2)
        evaluator, seen = Engine(lambda engine, batch: None), []
        optimizer = trainer.optimizer
        progress = TrainingProgress(
            str(tmp_path), evaluator, network, optimizer, make_schedule(optimizer), BestWeights(network, tmp_path),
            averaged=True, ema=step.moved_average,
        )  # fmt: skip
        evaluator.add_event_handler(
            Events.COMPLETED, lambda engine: seen.append(deepcopy(network.network_b[0].weight.detach()))
        )
        progress.average.attach(trainer)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: evaluator.run([0]))
        trainer.run()
        average = progress.average.ema
        assert (average is step.ema) == own
        assert int(average.n_averaged) == 6
        assert_close(seen[-1], average.module.network_b[0].weight, rtol=0, atol=0)
        assert not torch.equal(seen[-1], network.network_b[0].weight), "the training goes on with its own weights"


@pytest.mark.parametrize("weights", [("CDifW", "DisW"), ("none", "none"), ("DifW", "CDisW")])
@pytest.mark.parametrize("mixing", ["none", "CutMix", "CutOut", "ClassMix", "Double-Mix", "Double-Mix-Box"])
def test_every_method_trains(weights, mixing):
    network = make_pair()
    before = deepcopy(network.state_dict())
    step = make_step(network, weights=weights, mixing=mixing)
    trainer = make_trainer(network, step, [make_batch(seed) for seed in range(4)], epochs=2)
    trainer.run()
    output = trainer.state.output
    assert set(output) == {"loss", *step.terms}
    assert_close(output["loss"], sum(output[name] for name in step.terms))
    assert all(value.isfinite() for value in output.values())
    for name in ("network_a.0.weight", "network_b.0.weight"):
        assert not torch.equal(network.state_dict()[name], before[name])
    assert int(step.ema.n_averaged) == 8


def test_no_class_weighs_less_in_the_losses_than_asked():
    batch = make_batch()
    counts = torch.tensor([1000.0, 100.0, 10.0])
    for least, expected in [(0.0, [0.0, 0.5, 1.0]), (0.2, [0.2, 0.5, 1.0]), (1.0, [1.0, 1.0, 1.0])]:
        network = make_pair()
        step = make_step(network, weights=("DisW", "none"), min_weight=least)
        seen = []
        step.loss = lambda logits, _labels, weight, seen=seen: seen.append(weight) or logits.sum()
        step.class_weights[0].start(counts)
        step.class_weights[0]._next = lambda _statistics, step=step: step.class_weights[0].weight
        step.losses(network, batch, theta=1.0)
        assert_close(seen[0], CLASSES * torch.tensor(expected))
        assert_close(seen[1], torch.ones(CLASSES))


def test_loss_falls():
    network = make_pair()
    batch = make_batch()
    batch["label"] = (batch["image"] > 0).long() + (batch["image"] > 1)
    # Class weights move the scale of the loss; without them its values compare.
    step = make_step(network, mixing="Double-Mix", ramp=GaussianRamp(0.1))
    losses = []
    trainer = make_trainer(network, step, [batch], epochs=60)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output["supervised"]))
    )
    trainer.run()
    assert losses[-1] < 0.65 * losses[0]


def test_unlabeled_images_do_not_matter_where_nothing_is_learned_from_them():
    weights = []
    for unlabeled in (torch.zeros(2, 1, 8, 6), torch.full((2, 1, 8, 6), 9.0)):
        network = make_pair()
        batch = make_batch() | {"unlabeled": unlabeled}
        make_trainer(network, make_step(network, teaching="none"), [batch]).run()
        weights.append(network.state_dict())
    assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_students_as_teachers_leave_the_average_alone():
    network = make_pair()
    step = make_step(network, teacher="students")
    make_trainer(network, step, [make_batch()]).run()
    assert int(step.ema.n_averaged) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("min_weight", -0.1), ("min_weight", 1.5), ("mix_start", 1.5), ("mix_start", -1), ("mixed_weight", -0.5)],
)
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"^{name} is {value}; accepted"):
        make_step(make_pair(), **{name: value})


def test_settings_that_do_not_exist_are_refused():
    network = make_pair()
    with pytest.raises(ConfigError, match="teaching is 'self'; accepted are none, cross, mean_teacher"):
        make_step(network, teaching="self")
    with pytest.raises(ConfigError, match="teacher is 'mean'; accepted are ema, students"):
        make_step(network, teacher="mean")
    with pytest.raises(ConfigError, match="mixed_loss is 'dice'; accepted are dice_cross_entropy, cross_entropy"):
        make_step(network, mixed_loss="dice")
    with pytest.raises(ConfigError, match="weight_scale is 'max'; accepted are mean, maximum"):
        make_step(network, weight_scale="max")
    with pytest.raises(ConfigError, match="teacher is 'ema', but there is no average"):
        make_step(network, ema=None)


@pytest.mark.parametrize("weights", [("CDifW", "DisW"), ("DifW", "CDisW")])
@pytest.mark.parametrize("mixing", ["none", "ClassMix", "Double-Mix"])
@pytest.mark.parametrize("settings", [{}, {"teacher": "students"}, {"teaching": "mean_teacher", "teacher_noise": 0.1}])
def test_step_asks_no_tensor_of_the_device_for_its_value(waiting_for_device, weights, mixing, settings):
    """What a CPU can tell of synchronization: only the count of averaged steps, which stays on the host, is read."""
    network = make_pair()
    step = make_step(network, weights=weights, mixing=mixing, **settings)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, fused=True)
    with waiting_for_device() as waiting:
        for seed in range(3):
            terms = step.losses(network.train(), make_batch(seed), theta=0.5)
            torch.stack(list(terms.values())).sum().backward()
            optimizer.step()
    assert all(item is step.ema.n_averaged for _, item in waiting.found), waiting.found


def test_waiting_would_be_found(waiting_for_device):
    with waiting_for_device() as waiting:
        float(torch.ones(3).sum())
        torch.unique(torch.ones(3))
    assert [name for name, _ in waiting.found] == ["_local_scalar_dense", "_unique2"]
