import json
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from PIL import Image
from torch import nn

from common.handlers import (
    Attach,
    EpochSeeder,
    TrainingHistory,
)


def test_history_records_every_epoch_and_the_best(tmp_path):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0, momentum=0.5)
    evaluator = Engine(lambda engine, batch: None)
    trainer = Engine(lambda engine, batch: {"loss": torch.tensor(1.0 / engine.state.epoch)})
    dice = iter([0.8, 0.6])

    @evaluator.on(Events.COMPLETED)
    def measure():
        evaluator.state.metrics["dice"], evaluator.state.key_metric_name = next(dice), "dice"

    @trainer.on(Events.EPOCH_COMPLETED)
    def step():
        optimizer.param_groups[0]["lr"] *= 0.5

    trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), lambda: evaluator.run([0]))
    history = TrainingHistory(str(tmp_path / "run"), evaluator, optimizer)
    Attach(history).attach(trainer)
    trainer.run([0], max_epochs=4)
    epochs = [
        {"epoch": 1, "iteration": 1, "learning_rate": 0.5, "train_loss": 1.0},
        {"epoch": 2, "iteration": 2, "learning_rate": 0.25, "train_loss": 0.5, "dice": 0.8},
        {"epoch": 3, "iteration": 3, "learning_rate": 0.125, "train_loss": pytest.approx(1 / 3)},
        {"epoch": 4, "iteration": 4, "learning_rate": 0.0625, "train_loss": 0.25, "dice": 0.6},
    ]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == {"best": epochs[1], "epochs": epochs}
    with Image.open(tmp_path / "run" / "training.png") as picture:
        assert (picture.format, min(picture.size) > 100) == ("PNG", True)
    again = TrainingHistory(str(tmp_path), evaluator, optimizer)
    again.load_state_dict(history.state_dict())
    assert again.epochs == history.epochs


def test_epochs_are_seeded_by_seed_and_number_alone():
    def draws(seed, epochs):
        seen, sampler, transform = [], SimpleNamespace(), SimpleNamespace()
        sampler.set_epoch = lambda epoch: seen.append(epoch)
        transform.set_random_state = lambda seed: seen.append(seed)
        engine = Engine(lambda engine, batch: seen.append(float(torch.rand(()))))
        engine.data_loader = SimpleNamespace(sampler=sampler)
        EpochSeeder(seed, transform).attach(engine)
        engine.run([0], max_epochs=epochs)
        return [tuple(seen[k : k + 3]) for k in range(0, len(seen), 3)]

    assert draws(1, 3)[:2] == draws(1, 2)
    assert [epoch for epoch, _, _ in draws(1, 3)] == [1, 2, 3]
    assert len({value for seed in (1, 2) for _, *values in draws(seed, 3) for value in values}) == 12
