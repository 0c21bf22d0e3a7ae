import json
import logging

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from common.handlers import TrainingHistory
from common.handlers.log import EpochStatsHandler


def make_history(folder):
    """A history on a training engine whose batches are the losses, without any validation."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.5)
    trainer, evaluator = (Engine(lambda engine, batch: {"loss": torch.tensor(batch)}) for _ in range(2))
    TrainingHistory(str(folder), evaluator, optimizer).attach(trainer)
    return trainer


def test_loss_of_an_epoch_is_the_mean_over_its_iterations(tmp_path, read_picture):
    trainer = make_history(tmp_path)
    trainer.run([1.0, 2.0, 6.0], max_epochs=2)
    epoch = {"learning_rate": 0.5, "train_loss": 3.0}
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content == {"best": None, "epochs": [{"epoch": number} | epoch for number in (1, 2)]}
    read_picture(tmp_path / "training.png")


def test_only_the_main_process_writes_the_history(tmp_path, monkeypatch):
    monkeypatch.setattr("common.handlers.history.is_main_process", lambda: False)
    make_history(tmp_path).run([1.0], max_epochs=1)
    assert list(tmp_path.iterdir()) == []


def test_log_of_an_epoch_holds_its_metrics_and_no_iteration(caplog):
    trainer = Engine(lambda engine, batch: {"loss": batch})
    trainer.logger.setLevel(logging.INFO)

    @trainer.on(Events.EPOCH_COMPLETED)
    def measure():
        trainer.state.metrics["train_loss"] = 0.25

    EpochStatsHandler().attach(trainer)
    with caplog.at_level(logging.INFO):
        trainer.run([1.0, 2.0], max_epochs=2)
    lines = [message for message in caplog.messages if "train_loss" in message]
    assert len(lines) == 2
    assert all("0.2500" in line for line in lines)


def test_error_is_raised_and_not_logged_with_a_traceback(caplog):
    def fail(engine, batch):
        raise RuntimeError("broken")

    trainer = Engine(fail)
    EpochStatsHandler().attach(trainer)
    with pytest.raises(RuntimeError, match="broken"):
        trainer.run([1.0])
    assert not any(record.exc_info for record in caplog.records if "ignite" not in record.name)
