"""Class-wise contrastive learning on a CUDA device: no step waits for it, and losses are those of the CPU."""

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch.testing import assert_close

from common.contrast import (
    METHODS,
    ContrastiveStep,
    GeneralizedDiceFocal,
    HeadedNetwork,
    LossBalance,
    PairLoss,
    PresenceTeaching,
    positive_pairs,
    supervised_contrastive_loss,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
LAYERS = ["conv_0", "down_1", "down_2", "down_3", "down_4"]
CLASSES, WARM_UP, STEPS = 4, 3, 5


def make_batch(device, count=8):
    generator = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.rand(count, 3, 64, 48, generator=generator),
        "view": torch.rand(count, 3, 64, 48, generator=generator),
        "label": torch.randint(0, CLASSES, (count // 2, 1, 64, 48), generator=generator, dtype=torch.uint8),
        "presence": torch.randint(0, 2, (count, CLASSES - 1), generator=generator).float(),
        "phase": torch.randint(-1, 2, (count,), generator=generator),
    }
    return {name: value.to(device) for name, value in batch.items()}


@pytest.mark.parametrize("amp", [True, False])
@pytest.mark.parametrize("two_step", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_step_does_not_wait_for_the_device(synchronization_is_an_error, make_engine, amp, two_step, method):
    """The whole iteration, as MONAI's trainer calls it, once the batch is on the device; both steps of two."""
    if two_step != (method == "byol") and method in ("unet", "byol"):
        pytest.skip("the U-Net alone has one step, BYOL two")
    device = torch.device("cuda")
    torch.manual_seed(0)
    network = BasicUNet(spatial_dims=2, in_channels=3, out_channels=CLASSES, features=(8, 8, 8, 8, 8, 8), norm="batch")
    headed = HeadedNetwork(
        network.to(device), LAYERS, spatial_dims=2, in_channels=3, roi_size=[64, 48], num_classes=CLASSES,
        method=method,
    ).to(device)  # fmt: skip
    step = ContrastiveStep(
        headed,
        GeneralizedDiceFocal(),
        num_classes=CLASSES,
        method=method,
        pretrain_epochs=1 if two_step else 0,
        pairs=PairLoss(positives="overlap", queue_size=16),
        balance=LossBalance(term_balance="gradient", norm_interval=2),
        teaching=PresenceTeaching(presence_weight=0.3, pseudo_weight=0.3, network=headed.network),
    )
    optimizer = torch.optim.Adam(headed.parameters(), lr=0.001, fused=True)
    engine = make_engine(headed, optimizer, amp=amp)
    batch = make_batch(device)
    for epoch in (1, 2):
        engine.state.epoch = epoch
        for iteration in range(WARM_UP + STEPS):
            if iteration == WARM_UP:
                torch.cuda.synchronize()
                synchronization_is_an_error()
            output = step(engine, batch)
        torch.cuda.set_sync_debug_mode("default")
    assert all(value.isfinite() for value in output.values())
    assert all(parameter.isfinite().all() for parameter in headed.parameters())


def test_loss_is_that_of_the_cpu():
    values = []
    for device in ("cpu", "cuda"):
        batch = make_batch(device)
        projections = torch.nn.functional.normalize(batch["image"].flatten(1)[:, :64], dim=1)
        positive = positive_pairs(batch["presence"], batch["phase"])
        values.append(supervised_contrastive_loss(projections, positive).cpu())
    assert_close(values[1], values[0], rtol=1e-4, atol=1e-5)
