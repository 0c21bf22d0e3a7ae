"""What tests on a CUDA device share."""

from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def synchronization_is_an_error():
    """A function that makes any waiting an error until the test ends."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def make_engine():
    """A stand-in for MONAI's trainer, with what one iteration asks it for."""

    def make(network, optimizer, *, amp=False):
        state = SimpleNamespace(device=torch.device("cuda"), epoch=1, output=None)
        state.iteration = state.max_epochs = state.epoch_length = 1
        engine = SimpleNamespace(state=state, network=network, optimizer=optimizer, non_blocking=True)
        engine.autocasts = amp
        engine.fire_event = lambda _event: None
        return engine

    return make
