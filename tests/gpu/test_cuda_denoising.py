"""The denoiser's noise on a CUDA device: that of the CPU, without waiting."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from common.denoising import CoarseNoise
from common.handlers import ChangeBatch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("dims", [2, 3])
def test_noise_is_that_of_the_cpu_and_does_not_wait(dims, synchronization_is_an_error):
    images = torch.rand(4, 3, *[24] * dims, generator=torch.Generator().manual_seed(0))
    change = ChangeBatch(CoarseNoise(noise_resolution=6), seed=3)

    def changed(device):
        state = SimpleNamespace(device=torch.device(device), epoch=2, iteration=5, batch={"image": images})
        change(SimpleNamespace(state=state))
        return state.batch

    expected = changed("cpu")
    changed("cuda")
    torch.cuda.synchronize()
    synchronization_is_an_error()
    found = changed("cuda")
    torch.cuda.set_sync_debug_mode("default")
    assert_close(found["image"].cpu(), expected["image"], rtol=0, atol=1e-6)
    assert torch.equal(found["label"].cpu(), images)
