"""Quality of pseudo labels: the Dice of whole unlabeled images, and a training that does not notice."""

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from torch.testing import assert_close

from common.data import hidden_cases
from common.double_mix.quality import PseudoLabelQuality, overlaps, pooled_dice
from common.errors import ConfigError
from tests.common.cotrained import CLASSES, make_batch, make_pair, make_step, make_trainer


def infer(image, network):
    return network(image)


def make_items(number=3):
    batch = make_batch(7, half=number)
    return [{"image": batch["unlabeled"][index], "label": batch["label"][index]} for index in range(number)]


def make_quality(step, network, tmp_path, interval=1, epochs=None, items=None):
    return PseudoLabelQuality(
        step, network, make_items() if items is None else items, infer, num_classes=CLASSES,
        history=SimpleNamespace(epochs=[] if epochs is None else epochs), output_dir=str(tmp_path),
        pseudo_quality_interval=interval,
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 2)])
def test_dice_equals_a_loop_over_classes(shape):
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randint(0, 4, (2, 1, *shape), generator=generator) for _ in range(2))
    first[first == 3] = second[second == 3] = 0
    dice = pooled_dice(overlaps(first, second, 4))
    assert list(dice) == [1, 2], "nobody holds class 3"
    for index in (1, 2):
        a, b = first == index, second == index
        assert dice[index] == pytest.approx(2 * int((a & b).sum()) / int(a.sum() + b.sum()))


@pytest.mark.parametrize("teacher", ["ema", "students"])
def test_networks_that_teach_are_measured_in_evaluation_mode(teacher, tmp_path):
    network = make_pair().train()
    step = make_step(network, teacher=teacher)
    step.ema.update_parameters(network)
    for parameter in network.parameters():
        parameter.data.neg_()
    measured = make_quality(step, network, tmp_path).measure()
    source = (step.ema.module if teacher == "ema" else network).eval()
    expected = sum(
        overlaps(logits.argmax(1, keepdim=True), item["label"][None], CLASSES)
        for item in make_items()
        for logits in source.each(item["image"][None])
    )
    assert torch.equal(measured, expected)
    assert not step.ema.module.training


def test_training_goes_on_as_without_it(tmp_path):
    states, metrics = [], []
    for interval in (None, 2):
        network = make_pair()
        step = make_step(network, teacher="students", mixing="Double-Mix")
        trainer = make_trainer(network, step, [make_batch(seed) for seed in range(2)], epochs=4)
        make_quality(step, network, tmp_path, interval).attach(trainer)
        seen = []
        trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda engine, seen=seen: seen.append(dict(engine.state.metrics))
        )
        torch.manual_seed(3)
        trainer.run()
        states.append(network.state_dict() | {"drawn": torch.rand(1)})
        metrics.append(seen)
    assert_close(states[0], states[1], rtol=0, atol=0)
    assert metrics[0] == [{}] * 4
    assert [sorted(found) for found in metrics[1]] == [[], ["pseudo_dice", "pseudo_dice/1", "pseudo_dice/2"]] * 2
    assert metrics[1][1]["pseudo_dice"] == pytest.approx(sum(metrics[1][1][f"pseudo_dice/{c}"] for c in (1, 2)) / 2)


def test_course_is_drawn(tmp_path, read_picture):
    epochs = [{"epoch": 1}, {"epoch": 2, "pseudo_dice": 0.5, "pseudo_dice/1": 0.4, "pseudo_dice/10": 0.6}]
    network = make_pair()
    make_quality(make_step(network), network, tmp_path, epochs=epochs).write(None)
    read_picture(tmp_path / "pseudo_labels.png")


def test_without_labels_nothing_is_measured_and_a_warning_says_so(tmp_path, caplog):
    network = make_pair()
    engine = Engine(lambda engine, batch: None)
    make_quality(make_step(network), network, tmp_path, items=[]).attach(engine)
    with caplog.at_level("WARNING"):
        engine.run([0], max_epochs=1)
    assert engine.state.metrics == {}
    assert "no unlabeled case has a label" in caplog.text


def test_interval_below_one_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="pseudo_quality_interval is 0; accepted are epochs from 1, or none"):
        make_quality(None, None, tmp_path, 0)


def test_hidden_cases_are_those_with_labels_of_a_drawn_split_alone():
    parts = {"train": [{"case": "a"}], "hidden": [{"case": "b", "label": "b.nii"}, {"case": "c"}]}
    split = SimpleNamespace(drawn=True, part=parts.__getitem__)
    assert hidden_cases(split, parts["train"], 1) == [{"case": "b", "label": "b.nii"}]
    assert hidden_cases(split, parts["train"]) == []
    assert hidden_cases(split, [{"case": "x"}], 1) == []
    assert hidden_cases(SimpleNamespace(drawn=False), parts["train"], 1) == []
