"""What tests on a CUDA device share."""

import pytest
import torch


@pytest.fixture
def synchronization_is_an_error():
    """A function that makes any waiting an error until the test ends."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")
