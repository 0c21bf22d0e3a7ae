import json

import torch
from ignite.engine import Engine
from torch import nn

from common.handlers import TrainingHistory


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
    assert content == {
        "best": None,
        "epochs": [{"epoch": number, "iteration": 3 * number} | epoch for number in (1, 2)],
    }
    read_picture(tmp_path / "training.png")


def test_only_the_main_process_writes_the_history(tmp_path, monkeypatch):
    monkeypatch.setattr("common.handlers.history.is_main_process", lambda: False)
    make_history(tmp_path).run([1.0], max_epochs=1)
    assert list(tmp_path.iterdir()) == []
