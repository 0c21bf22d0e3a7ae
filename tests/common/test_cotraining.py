"""One iteration of co-training: what is learned from whom, and what it costs in numbers."""

import math
from copy import deepcopy

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import nn
from torch.testing import assert_close

from common.class_weights import make_class_weight, most_probable
from common.double_mix.losses import WeightedSegmentationLoss, weighted_cross_entropy
from common.double_mix.mixing import apply_mask, make_mixing
from common.double_mix.network import CoTrainedPair
from common.double_mix.step import TEACHINGS, CoTrainingStep, GaussianRamp, cross_supervision, mean_teacher
from common.engine.schedules import make_schedule
from common.errors import ConfigError
from common.handlers import BestWeights, TrainingProgress
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


def test_ramp_follows_the_formula_up_to_its_maximum():
    ramp = GaussianRamp(0.5)
    for epoch in (1, 7, 20):
        assert ramp(epoch / 20) == pytest.approx(0.5 * math.exp(-5 * (1 - epoch / 20) ** 2))
    assert ramp(1.0) == 0.5
    with pytest.raises(ConfigError, match="theta_max is -1"):
        GaussianRamp(-1)


class TestTeaching:
    def test_each_network_learns_from_the_other(self):
        generator = torch.Generator().manual_seed(1)
        students, teachers = ([torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2)] for _ in range(2))
        weights, loss = [torch.tensor([0.0, 1, 3]), torch.tensor([1.0, 3, 2])], WeightedSegmentationLoss()
        labels = [logits.argmax(1, keepdim=True) for logits in teachers]
        expected = loss(students[0], labels[1], weights[0]) + loss(students[1], labels[0], weights[1])
        assert_close(cross_supervision(students, teachers, weights, loss), expected)

    def test_mean_teachers_agree_with_their_own_student(self):
        logits = [torch.randn(2, 3, 4, 4) for _ in range(2)]
        assert mean_teacher(logits, [item + 7 for item in logits], [], None) < 1e-10
        swapped = mean_teacher(logits, logits[::-1], [], None)
        assert_close(swapped, 2 * ((logits[0].softmax(1) - logits[1].softmax(1)) ** 2).mean())

    @pytest.mark.parametrize("teaching", ["cross", "mean_teacher"])
    def test_no_gradient_reaches_the_teachers(self, teaching):
        students, teachers = ([torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2)] for _ in range(2))
        TEACHINGS[teaching](students, teachers, [torch.ones(3)] * 2, WeightedSegmentationLoss()).backward()
        assert all(item.grad is not None for item in students)
        assert all(item.grad is None for item in teachers)


class TestLosses:
    """The terms of the loss, computed once more by hand from the definitions of METHODS 5."""

    @pytest.fixture
    def parts(self):
        network, batch = make_pair().train(), make_batch()
        for parameter in network.parameters():
            parameter.data.mul_(2)
        # Each half has batch statistics of its own.
        halves = zip(network(batch["image"]), network(batch["unlabeled"]), strict=True)
        return network, batch, [torch.cat(half) for half in halves]

    def test_unlabeled_images_do_not_change_what_labeled_ones_cost(self, parts):
        network, batch, _ = parts
        step = make_step(network, teacher="students")
        costs = [
            step.losses(deepcopy(network), batch | {"unlabeled": factor * batch["unlabeled"]}, theta=1.0)["supervised"]
            for factor in (1, 7)
        ]
        assert_close(costs[0], costs[1], rtol=0, atol=0)

    def test_supervised_term(self, parts):
        network, batch, _ = parts
        terms = make_step(network, teaching="none").losses(network, batch, theta=1.0)
        loss = WeightedSegmentationLoss()
        alone = network(batch["image"])
        assert_close(terms["supervised"], sum(loss(item, batch["label"]) for item in alone))
        assert list(terms) == ["supervised"]

    def test_cross_pseudo_supervision_uses_the_labels_of_the_students(self, parts):
        network, batch, logits = parts
        terms = make_step(network, teacher="students").losses(network, batch, theta=0.25)
        loss, (first, second) = WeightedSegmentationLoss(), [item[2:] for item in logits]
        expected = loss(first, second.argmax(1, keepdim=True)) + loss(second, first.argmax(1, keepdim=True))
        assert_close(terms["unsupervised"], 0.25 * expected)
        assert_close(terms["supervised"], sum(loss(item[:2], batch["label"]) for item in logits))

    def test_averages_label_in_evaluation_mode(self, parts):
        network, batch, logits = parts
        step = make_step(network)
        found = step.losses(network, batch, theta=1.0)["unsupervised"]
        # The first average is the network, with the statistics that both halves have left.
        teacher = deepcopy(network).eval()
        first, second = (item.argmax(1, keepdim=True) for item in teacher.each(batch["unlabeled"]))
        loss = WeightedSegmentationLoss()
        assert_close(found, loss(logits[0][2:], second) + loss(logits[1][2:], first))

    def test_cross_entropy_alone_may_teach_across(self, parts):
        network, batch, logits = parts
        taught = [most_probable(item[2:]) for item in logits]
        ones = torch.ones(CLASSES)
        expected = sum(weighted_cross_entropy(logits[k][2:], taught[1 - k], ones) for k in (0, 1))
        step = make_step(network, teacher="students", cross_loss="cross_entropy")
        assert_close(step.losses(network, batch, theta=0.5)["unsupervised"], 0.5 * expected)

    def test_mixed_term(self, parts):
        network, batch, _ = parts
        step = make_step(network, mixing="Double-Mix", weights=("CDifW", "DisW"), teaching="none")
        step.class_weights[1].start(torch.tensor([80, 15, 5]))
        before = deepcopy(network)
        terms = step.losses(network, batch, theta=1.0)
        # The same draws once more, with the weights that the step has just computed.
        generator, mixing = torch.Generator().manual_seed(5), make_mixing("Double-Mix")
        teacher = deepcopy(before)
        for half in ("image", "unlabeled"):
            teacher(batch[half])
        teachers, expected = teacher.eval().each(batch["unlabeled"]), 0.0
        for member, logits, weight in zip(
            (before.network_a, before.network_b), teachers, step.class_weights, strict=True
        ):
            pseudo = logits.argmax(1, keepdim=True)
            image, label, mask = mixing(
                batch["unlabeled"], pseudo, batch["image"], batch["label"], weight.weight, generator=generator
            )
            assert torch.equal(apply_mask(batch["unlabeled"], pseudo, batch["image"], batch["label"], mask)[0], image)
            expected += weighted_cross_entropy(member.train()(image), label, weight.loss_weight())
        assert_close(terms["mixed"], expected)
        assert list(terms) == ["supervised", "mixed"]

    def test_mixed_images_have_the_loss_of_labeled_ones_at_a_weight(self, parts):
        network, batch, _ = parts
        step = make_step(network, mixing="CutMix", mixed_loss="dice_cross_entropy", mixed_weight=0.25)
        seen = []
        step._mix = lambda *parts: seen.append(make_step(network, mixing="CutMix")._mix(*parts)) or seen[0]
        terms = step.losses(network, batch, theta=1.0)
        loss, ones = WeightedSegmentationLoss(), torch.ones(CLASSES)
        logits = network(*seen[0][0])
        expected = sum(loss(*item, ones) for item in zip(logits, seen[0][1], strict=True))
        assert_close(terms["mixed"], 0.25 * expected)

    def test_smaller_half_is_padded_with_zeros(self, parts):
        network, batch, _ = parts
        step = make_step(network, teaching="none", mixing="CutMix")
        padded = {name: torch.nn.functional.pad(batch[name], [1, 1, 1, 1]) for name in ("image", "label")}
        larger = torch.nn.functional.pad(batch["unlabeled"], [1, 1, 1, 1], value=0.5)
        terms = [
            step.losses(deepcopy(network), given | {"unlabeled": larger}, theta=1.0)["supervised"]
            for given in (batch, padded)
        ]
        assert_close(terms[0], terms[1], rtol=0, atol=0)


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
@pytest.mark.parametrize("mixing", ["none", "CutMix", "CutOut", "ClassMix", "Double-Mix"])
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
