import json
import logging

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
    assert content == {
        "best": None,
        "epochs": [{"epoch": number, "iteration": 3 * number} | epoch for number in (1, 2)],
    }
    read_picture(tmp_path / "training.png")


def test_only_the_main_process_writes_the_history(tmp_path, monkeypatch):
    monkeypatch.setattr("common.handlers.history.is_main_process", lambda: False)
    make_history(tmp_path).run([1.0], max_epochs=1)
    assert list(tmp_path.iterdir()) == []


def run_logged(step, caplog):
    """Runs two epochs with the log of epochs; returns its records and the error, if any."""
    trainer, handler = Engine(step), EpochStatsHandler()
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: trainer.state.metrics.update(train_loss=0.25))
    # MONAI's own logger keeps what it logs from caplog.
    handler.logger = logging.getLogger("tests.epochs")
    caplog.set_level(logging.INFO, "tests.epochs")
    handler.attach(trainer)
    error = None
    try:
        trainer.run([1.0, 2.0], max_epochs=2)
    except RuntimeError as raised:
        error = str(raised)
    return [record for record in caplog.records if record.name == "tests.epochs"], error


def test_log_of_an_epoch_holds_its_metrics_and_no_iteration(caplog):
    records, error = run_logged(lambda engine, batch: {"loss": batch}, caplog)
    lines = [record.getMessage().strip() for record in records]
    assert lines == [f"Epoch[{number}] Metrics -- train_loss: 0.2500" for number in (1, 2)]
    assert error is None


def test_error_goes_on_without_a_traceback_in_the_log(caplog):
    def fail(engine, batch):
        raise RuntimeError("broken")

    assert run_logged(fail, caplog) == ([], "broken")
