"""What each of two processes holds when a training ends."""

import json

import torch

SPY = """
import torch
import torch.distributed as dist
from ignite.engine import Events

class Spy:
    def __init__(self, members, folder, with_buffers):
        self.members, self.folder, self.with_buffers = members, folder, with_buffers

    def attach(self, engine):
        engine.add_event_handler(Events.COMPLETED, self)

    def state_of(self, member):
        kept = member.state_dict() if self.with_buffers else dict(member.named_parameters())
        return {name: value.detach() for name, value in kept.items()}

    def __call__(self, engine):
        torch.save([self.state_of(member) for member in self.members], f"{self.folder}/{dist.get_rank()}.pt")
"""


def write_spy(folder, members, *, with_buffers=True):
    """Writes into a folder what tells the states of members, named as in the config; returns the overlay.

    The folder must be on the path of the training. ``with_buffers=False`` leaves out running statistics, which are each
    process's own.
    """
    (folder / "spy.py").write_text(SPY, encoding="utf-8")
    spy = {"_target_": "spy.Spy", "members": members, "folder": str(folder), "with_buffers": with_buffers}
    overlay = folder / "spy.json"
    overlay.write_text(json.dumps({"+train#handlers": [spy]}))
    return overlay


def read_states(folder):
    """The states of the members in each process, after the training."""
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
