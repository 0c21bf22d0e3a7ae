import torch
from ignite.engine import Engine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import common.handlers.buffers
from common.handlers import BroadcastBuffers, MovableWriter


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
