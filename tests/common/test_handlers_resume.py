"""A training that ends anywhere in an epoch goes on as if nothing had happened."""

import json
import signal

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from common.handlers import BestWeights, EpochSeeder, PlateauSchedule, TrainingCheckpoint, TrainingHistory
from common.runtime.interrupts import Interrupted
from common.runtime.weights import read_checkpoint
from common.spectral import weights_digest

EPOCHS = 4


class Nothing:
    def set_epoch(self, epoch):
        pass

    def set_random_state(self, seed):
        pass


class Run:
    """A tiny training with all that follows an epoch; ``fail(event)`` may raise where it is told to."""

    def __init__(self, folder, *, resume=False, fail=lambda event, epoch: None):
        torch.manual_seed(0)
        self.folder, self.network = folder, nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        optimizer = torch.optim.SGD(self.network.parameters(), lr=0.05, momentum=0.9)

        def step(engine, _batch):
            self.network.train()
            optimizer.zero_grad()
            loss = (self.network(torch.randn(6, 3)) - 1).square().mean()
            loss.backward()
            optimizer.step()
            fail("iteration", engine.state.epoch)
            return {"loss": loss}

        def validate(engine, _batch):
            with torch.no_grad():
                value = 1 / (1 + float(self.network.eval()(torch.ones(2, 3)).square().sum()))
            engine.state.metrics["dice"] = value

        self.trainer, self.evaluator = Engine(step), Engine(validate)
        self.trainer.data_loader = Nothing()
        self.evaluator.state.key_metric_name = "dice"
        self.best = BestWeights(self.network, folder)
        self.history = TrainingHistory(str(folder), self.evaluator, optimizer)
        schedule = PlateauSchedule(optimizer, schedule_interval=2, schedule_patience=0)
        members = {"network": self.network, "optimizer": optimizer, "schedule": schedule}
        members |= {"best": self.best, "history": self.history}
        self.checkpoint = TrainingCheckpoint(str(folder / "checkpoint.pt"), members, resume=resume)
        for name, handler in {"seed": EpochSeeder(1, Nothing()), "validation": self, "history": self.history,
                              "schedule": schedule, "checkpoint": self.checkpoint}.items():  # fmt: skip
            handler.attach(self.trainer)
            self.trainer.add_event_handler(
                Events.EPOCH_COMPLETED, lambda engine, name=name: fail(f"after {name}", engine.state.epoch)
            )
        self.best.attach(self.evaluator)

    def attach(self, engine):
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: self.evaluator.run([0]))

    def start(self):
        self.trainer.run(range(3), max_epochs=EPOCHS)
        return self


def fail_at(place, epoch, error):
    def fail(event, number):
        if (event, number) == (place, epoch):
            raise error

    return fail


def files(folder):
    """All that a run leaves: history, weights, checkpoint; the digest in that is the one of the weights."""
    checkpoint = read_checkpoint(folder / "checkpoint.pt")
    assert checkpoint["best"].pop("digest") == weights_digest(read_checkpoint(folder / "model.pt"))
    # Texts, which torch does not compare.
    texts = {name: checkpoint["progress"].pop(name) for name in ("inputs", "settings")}
    assert texts["inputs"] == ""
    return [json.loads((folder / "metrics.json").read_text()), read_checkpoint(folder / "model.pt"),
            checkpoint]  # fmt: skip


@pytest.mark.parametrize("epoch", [1, 2, EPOCHS])
@pytest.mark.parametrize(
    "place",
    ["iteration", "after seed", "after validation", "after history", "after schedule", "after checkpoint"],
)
@pytest.mark.tried(
    "Training that goes on",
    "A training that ends anywhere",
    "It goes on from the last checkpoint, bit for bit.",
)
def test_run_that_ended_anywhere_goes_on_bit_by_bit(tmp_path, place, epoch):
    (tmp_path / "whole").mkdir()
    Run(tmp_path / "whole").start()
    (tmp_path / "cut").mkdir()
    with pytest.raises(RuntimeError, match="power cut"):
        Run(tmp_path / "cut", fail=fail_at(place, epoch, RuntimeError("power cut"))).start()
    begun = (tmp_path / "cut" / "checkpoint.pt").is_file()
    assert begun == (place != "iteration" or epoch > 1)
    Run(tmp_path / "cut", resume=begun).start()
    torch.testing.assert_close(files(tmp_path / "cut"), files(tmp_path / "whole"), rtol=0, atol=0)


@pytest.mark.tried(
    "Training that goes on",
    "A stop during validation",
    "The epoch's training is on disk before validation begins.",
)
def test_training_of_an_epoch_is_on_disk_before_its_validation(tmp_path):
    with pytest.raises(RuntimeError, match="cut"):
        Run(tmp_path, fail=fail_at("after seed", 2, RuntimeError("cut"))).start()
    progress = read_checkpoint(tmp_path / "checkpoint.pt")["progress"]
    assert (progress["epoch"], progress["iteration"]) == (2, 6)
    assert set(progress["trained"]) == {"train_loss"}
    iterations = []
    run = Run(tmp_path, resume=True, fail=lambda event, epoch: iterations.append(epoch) if event == "iteration" else 0)
    run.start()
    assert iterations == [3] * 3 + [4] * 3, "no iteration is trained twice"
    assert [epoch["epoch"] for epoch in run.history.epochs] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("place", "epoch", "text"),
    [
        ("iteration", 1, "ended by Ctrl-C: in epoch 1, before the first checkpoint; start the training again"),
        ("after seed", 1, r"ended by Ctrl-C: in epoch 1; the same command with --resume true goes on from .*\.pt"),
        ("iteration", 3, r"ended by Ctrl-C: in epoch 3; the same command with --resume true goes on from .*\.pt"),
    ],
)
@pytest.mark.tried("Training that goes on", "Ctrl-C in training", "One line that says how to go on.")
def test_interrupted_training_says_how_to_go_on(tmp_path, place, epoch, text):
    with pytest.raises(Interrupted, match=text):
        Run(tmp_path, fail=fail_at(place, epoch, Interrupted(signal.SIGINT))).start()
    error = Interrupted(signal.SIGINT)
    error.advice = "no more"
    with pytest.raises(Interrupted, match="Ctrl-C: no more"):
        Run(tmp_path, fail=fail_at(place, epoch, error)).start()
