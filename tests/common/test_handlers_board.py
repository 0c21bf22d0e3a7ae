import pytest
import torch
from ignite.engine import Engine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import common.handlers.buffers
from common.handlers import BroadcastBuffers, EpochBoardHandler, MovableWriter
from common.handlers import board as board_module


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
