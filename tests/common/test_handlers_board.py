import numpy as np
import pytest
import torch
from ignite.engine import Engine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import common.handlers.buffers
from common.handlers import BroadcastBuffers, EpochBoardHandler, MovableWriter
from common.handlers import board as board_module
from common.handlers.board import IterationBoardHandler, PictureBoardHandler, side_by_side
from common.handlers.terms import iteration_terms


def scalars(folder):
    """Tag -> steps and values of the events in a folder."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_events_go_where_the_writer_was_moved(tmp_path):
    board = MovableWriter(str(tmp_path / "first"))
    board.flush()
    assert not (tmp_path / "first").exists(), "nothing is written before there is something to write"
    board.add_scalar("loss", 0.5, 1)
    board.move(tmp_path / "second")
    board.add_scalar("loss", 0.25, 1)
    board.add_scalar("loss", 0.125, 2)
    board.close()
    assert scalars(tmp_path / "first") == {"loss": [(1, 0.5)]}
    assert scalars(tmp_path / "second") == {"loss": [(1, 0.25), (2, 0.125)]}


def test_losses_and_rates_are_written_by_iteration_once_an_epoch(tmp_path):
    board = MovableWriter(str(tmp_path))
    engine = Engine(lambda engine, batch: {"loss": torch.tensor(batch), "contrast": torch.tensor(batch / 2)})
    engine.optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    read = []
    IterationBoardHandler(board, most=2).attach(engine)
    board.add_scalar = lambda tag, value, step: read.append((tag, value, step, engine.state.iteration))
    engine.run([0.5, 1.5, 2.5, 3.5], max_epochs=2)
    curves = {tag: [entry[1:] for entry in read if entry[0] == tag] for tag, *_ in read}
    assert curves.keys() == {f"iteration/{name}" for name in ("loss", "loss_contrast", "learning_rate")}
    losses = [(1.5, 2, 4), (3.5, 4, 4), (1.5, 6, 8), (3.5, 8, 8)]
    assert curves["iteration/loss"] == losses, "no loss is read before the epoch's end"
    assert curves["iteration/loss_contrast"] == [(value / 2, *when) for value, *when in losses]
    assert [entry[:2] for entry in curves["iteration/learning_rate"]] == [(0.5, step) for step in (2, 4, 6, 8)]


def test_cases_of_a_step_are_no_terms_of_its_loss():
    cases = {"image": torch.zeros(1, 1, 2), "pred": torch.zeros(1, 1, 2), "loss": torch.tensor(1.0)}
    assert iteration_terms(cases | {"weight": torch.tensor(2.0)}) == iteration_terms([cases]) == {}


def test_picture_of_a_validation_shows_image_label_and_prediction_where_there_is_most_label():
    image = torch.arange(8.0).reshape(1, 2, 2, 2)
    label, background = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    label[0, 0, 1, 1] = 1
    background[0, 0, 1, 1] = 0
    expected = np.array([[0, 1 / 3, 0, 1, 0, 0], [2 / 3, 1, 0, 0, 0, 0]])
    nothing = torch.zeros(1, 2, 2, 2)
    np.testing.assert_allclose(side_by_side({"image": image, "label": label, "pred": nothing})[0], expected, atol=1e-6)
    case = {"image": image, "label": torch.cat([background, label]), "pred": torch.cat([background + label, nothing])}
    np.testing.assert_allclose(side_by_side(case)[0], expected, atol=1e-6)
    written = []
    board = MovableWriter("unused")
    board.add_image = lambda tag, picture, step: written.append((tag, picture.shape, step))
    trainer, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: batch)
    trainer.state.epoch = 3
    PictureBoardHandler(board, trainer).attach(evaluator)
    evaluator.run([[case]])
    evaluator.run([torch.zeros(1)])
    assert written == [("validation", (1, 2, 6), 3)]


def test_buffers_are_sent_only_between_processes(monkeypatch):
    sent = []
    monkeypatch.setattr(common.handlers.buffers.dist, "broadcast", lambda buffer, rank: sent.append((buffer, rank)))
    network = nn.BatchNorm2d(3)
    engine = Engine(lambda _engine, _batch: None)
    BroadcastBuffers(network).attach(engine)
    engine.run([0])
    assert sent == []
    monkeypatch.setattr(common.handlers.buffers, "world_size", lambda: 2)
    engine.run([0])
    assert [rank for _, rank in sent] == [0, 0, 0]
    assert all(buffer is own for (buffer, _), own in zip(sent, network.buffers(), strict=True))
    assert torch.equal(network.running_mean, torch.zeros(3))


class BrokenWriter:
    """A ``SummaryWriter`` whose methods, or itself, fail; counts how often it was asked."""

    asked = 0

    def __init__(self, log_dir, fails=()):
        self.fails = fails
        self._ask("made")

    def _ask(self, name):
        type(self).asked += 1
        if name in self.fails:
            raise OSError("no space left on device")

    def add_scalar(self, *_):
        self._ask("add_scalar")

    def flush(self):
        self._ask("flush")

    def close(self):
        self._ask("close")


@pytest.mark.parametrize(("fails", "asked"), [("made", 1), ("add_scalar", 2), ("flush", 4), ("close", 8)])
@pytest.mark.tried(
    "Runs that are stopped",
    "TensorBoard events that cannot be written",
    "One warning; the training goes on.",
)
def test_events_that_cannot_be_written_are_one_warning(monkeypatch, caplog, tmp_path, fails, asked):
    monkeypatch.setattr(board_module, "SummaryWriter", lambda folder: BrokenWriter(folder, [fails]))
    monkeypatch.setattr(BrokenWriter, "asked", 0)
    board = MovableWriter(str(tmp_path))
    engine = Engine(lambda engine, batch: engine.state.metrics.update(loss=0.5, dice=1.0))
    EpochBoardHandler(board).attach(engine)
    engine.run([0], max_epochs=2)
    board.move(tmp_path / "next")
    assert engine.state.epoch == 2
    text = f"TensorBoard events in {tmp_path} could not be made (OSError: no space left on device)"
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.getMessage().split(";")[0] for record in warnings] == [text]
    assert BrokenWriter.asked == asked


def test_another_folder_is_tried_anew(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").touch()
    board = MovableWriter(str(tmp_path / "file"))
    board.add_scalar("loss", 0.5, 1)
    assert len(caplog.records) == 1
    board.move(tmp_path / "folder")
    board.add_scalar("loss", 0.25, 1)
    board.close()
    assert scalars(tmp_path / "folder") == {"loss": [(1, 0.25)]}
