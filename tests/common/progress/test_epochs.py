"""Lines and the bar of a training, by a clock that the steps set forward."""

import pytest
import torch
from ignite.engine import Engine, Events

from common.handlers.epochs import attach_mean
from common.handlers.log import EpochLog, RunLog, count_images
from common.handlers.schedule import iteration_loss
from common.runtime.interrupts import Interrupted

NAME = "common.handlers.log"
BATCHES = [{"image": torch.zeros(4, 1)}, {"image": torch.zeros(4, 1)}]


class Training:
    """A training whose steps take two seconds on four images, validated after every second epoch in six seconds."""

    def __init__(self, clock, *, seconds=2.0, fails_at=None, log=None):
        self.clock, self.seconds, self.fails_at = clock, seconds, fails_at
        self.trainer, self.evaluator = Engine(self.step), Engine(self.validate)
        attach_mean(self.trainer, "loss_of_a_term", lambda output: 0.25, "cpu")
        attach_mean(self.trainer, "train_loss", iteration_loss, "cpu")
        attach_mean(self.trainer, "weight/1", lambda output: 0.5, "cpu")
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), lambda: self.evaluator.run([0, 1]))
        self.log = log(self.evaluator) if log else EpochLog(self.evaluator, clock=clock)
        self.log.attach(self.trainer)

    def step(self, engine, batch):
        if engine.state.iteration == self.fails_at:
            raise Interrupted(2)
        self.clock.now += self.seconds
        return {"loss": torch.tensor(float(engine.state.iteration))}

    def validate(self, engine, batch):
        self.clock.now += 3
        engine.state.metrics["val_soft_dice"] = 0.5


def test_one_line_an_epoch_tells_loss_metrics_rate_and_time_left(clock, caplog, capsys):
    caplog.set_level("INFO", NAME)
    Training(clock).trainer.run(BATCHES, max_epochs=4)
    assert caplog.messages == [
        # Two of eight iterations took four seconds.
        "epoch 1/4: loss 1.5000, loss_of_a_term 0.2500, 2.0 images/s, 0:00:12 left",
        # Validation is no part of the rate, but of the time left: four iterations took 14 seconds.
        "epoch 2/4: loss 3.5000, loss_of_a_term 0.2500, val_soft_dice 0.5000, 2.0 images/s, 0:00:14 left",
        "epoch 3/4: loss 5.5000, loss_of_a_term 0.2500, 2.0 images/s, 0:00:06 left",
        "epoch 4/4: loss 7.5000, loss_of_a_term 0.2500, val_soft_dice 0.5000, 2.0 images/s, done in 0:00:28",
    ]
    assert capsys.readouterr() == ("", "")


def test_long_epochs_and_validations_tell_how_far_they_are(clock, caplog):
    caplog.set_level("INFO", NAME)
    training = Training(clock, seconds=20.0)
    training.trainer.run(BATCHES * 2, max_epochs=1)
    assert caplog.messages == [
        "epoch 1/1: iteration 2 of 4, loss 2.0000, 0.20 images/s, 0:00:40 left",
        "epoch 1/1: loss 2.5000, loss_of_a_term 0.2500, 0.20 images/s, done in 0:01:20",
    ]
    caplog.clear()
    validation = Engine(lambda engine, batch: setattr(clock, "now", clock.now + 20))
    log = EpochLog(validation, clock=clock)
    log.attach(training.trainer)
    training.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: validation.run([0, 1, 2, 3, 4, 5]))
    training.trainer.state.epoch = training.trainer.state.iteration = 0
    training.trainer.run(BATCHES, max_epochs=1)
    assert [line for line in caplog.messages if "validation" in line] == [
        "validation 2/6, 0:01:20 left",
        "validation 4/6, 0:00:40 left",
        "a validation of 6 image(s) took 0:02:00, the training before it 0:01:20: raise val_interval, or let val_cases "
        "choose some of them",
    ]


def test_validation_that_cannot_be_shorter_is_not_warned_of(clock, caplog):
    training = Training(clock)
    validation = Engine(lambda engine, batch: setattr(clock, "now", clock.now + 200))
    EpochLog(validation, clock=clock).attach(training.trainer)
    training.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: validation.run([0]))
    training.trainer.run(BATCHES, max_epochs=1)
    assert caplog.messages == []


def test_resumed_training_counts_only_what_this_process_did(clock, caplog):
    caplog.set_level("INFO", NAME)
    training = Training(clock)

    @training.trainer.on(Events.STARTED)
    def resume(engine):
        engine.state.epoch, engine.state.iteration = 4, 8

    training.trainer.run(BATCHES, max_epochs=7)
    assert [line.split(", ")[-1] for line in caplog.messages] == ["0:00:08 left", "0:00:07 left", "done in 0:00:18"]
    assert caplog.messages[0].startswith("epoch 5/7: loss 9.5000, ")


def test_second_run_of_a_trainer_counts_anew(clock, caplog):
    caplog.set_level("INFO", NAME)
    training = Training(clock)
    for _ in range(2):
        training.trainer.state.epoch = training.trainer.state.iteration = 0
        training.trainer.run(BATCHES, max_epochs=1)
        clock.now += 1000
    assert caplog.messages == ["epoch 1/1: loss 1.5000, loss_of_a_term 0.2500, 2.0 images/s, done in 0:00:04"] * 2


def test_all_processes_count(clock, caplog, monkeypatch):
    caplog.set_level("INFO", NAME)
    monkeypatch.setattr("common.handlers.log.world_size", lambda: 3)
    Training(clock).trainer.run(BATCHES, max_epochs=1)
    assert caplog.messages == ["epoch 1/1: loss 1.5000, loss_of_a_term 0.2500, 6.0 images/s, done in 0:00:04"]


def test_error_goes_on_without_a_traceback_in_the_log(clock, caplog):
    caplog.set_level("INFO")
    with pytest.raises(Interrupted):
        Training(clock, fails_at=1).trainer.run(BATCHES, max_epochs=1)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("batch", "number"),
    [
        ({"image": torch.zeros(2, 1), "unlabeled": torch.zeros(3, 1), "label": torch.zeros(2, 1)}, 5),
        ({"image": torch.zeros(2, 1), "view": torch.zeros(2, 1)}, 2),
        ([1, 2], 1),
    ],
)
def test_images_of_a_batch(batch, number):
    assert count_images(batch) == number


class TestOnTerminal:
    def test_bar_shows_loss_rate_and_time_left_and_leaves_lines_alone(self, clock, terminal):
        training = Training(clock)
        training.trainer.run(BATCHES, max_epochs=2)
        assert "epoch 1/2:   0%|" in terminal.written()
        assert "| 1/4, loss 1.0000, 2.0 images/s, 0:00:06 left" in terminal.written()
        assert "| 4/4, validation 1/2" in terminal.written()
        assert terminal.seen() == [
            "epoch 1/2: loss 1.5000, loss_of_a_term 0.2500, 2.0 images/s, 0:00:04 left",
            "epoch 2/2: loss 3.5000, loss_of_a_term 0.2500, val_soft_dice 0.5000, 2.0 images/s, done in 0:00:14",
            "",
        ]

    def test_loss_is_read_once_a_second_and_never_without_a_bar(self, clock, terminal, monkeypatch):
        read = []
        monkeypatch.setattr("common.handlers.log.iteration_loss", lambda output: read.append(clock.now) or 0.0)
        Training(clock, seconds=0.25).trainer.run(BATCHES * 10, max_epochs=1)
        assert read == [1001, 1002, 1003, 1004, 1005]
        read.clear()
        monkeypatch.setenv("TERM", "dumb")
        Training(clock, seconds=0.25).trainer.run(BATCHES * 10, max_epochs=1)
        assert read == []

    def test_interruption_leaves_the_terminal_clean(self, clock, terminal, tmp_path):
        def log(evaluator):
            made = RunLog(str(tmp_path), evaluator)
            made.lines = EpochLog(evaluator, clock=clock)
            return made

        training = Training(clock, fails_at=4, log=log)
        with pytest.raises(Interrupted), training.log:
            training.trainer.run(BATCHES, max_epochs=2)
        seen = [line for line in terminal.seen() if "terminating" not in line]
        assert seen[0] == "epoch 1/2: loss 1.5000, loss_of_a_term 0.2500, 2.0 images/s, 0:00:04 left"
        assert seen[1].startswith("epoch 2/2:  75%|")
        assert seen[1].endswith("| 3/4, loss 3.0000, 2.0 images/s, 0:00:02 left")
        assert seen[2:] == [""]


def test_only_the_main_process_logs(clock, terminal, tmp_path, monkeypatch):
    monkeypatch.setattr("common.handlers.log.is_main_process", lambda: False)
    Training(clock, log=lambda evaluator: RunLog(str(tmp_path), evaluator)).trainer.run(BATCHES, max_epochs=2)
    assert terminal.written() == ""
    assert list(tmp_path.iterdir()) == []
