"""Co-training on a CUDA device: no step waits for it, and draws and weights are those of the CPU."""

import pytest
import torch
from torch.testing import assert_close

from common.class_weights import CLASS_WEIGHTS, class_statistics, make_class_weight
from common.double_mix.losses import WeightedSegmentationLoss
from common.double_mix.mixing import MIXINGS, make_mixing
from common.double_mix.network import CoTrainedPair
from common.double_mix.step import CoTrainingStep, GaussianRamp
from common.networks import DenseSkipUNet
from common.networks.averaging import EMANetwork

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CLASSES, WARM_UP, STEPS = 4, 3, 5


def make_batch(device, size=16):
    generator = torch.Generator().manual_seed(0)
    image, unlabeled = (torch.randn(2, 1, size, size, size, generator=generator) for _ in range(2))
    label = torch.randint(0, CLASSES, (2, 1, size, size, size), generator=generator, dtype=torch.uint8)
    return {"image": image.to(device), "label": label.to(device), "unlabeled": unlabeled.to(device)}


@pytest.mark.parametrize("amp", [True, False])
@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize(
    "settings",
    [
        {"weights": ("CDifW", "DisW")},
        {"weights": ("DifW", "CDisW"), "teacher": "students"},
        {"weights": ("none", "none"), "teaching": "mean_teacher", "teacher_noise": 0.1},
    ],
    ids=["double mix", "students", "mean teacher"],
)
def test_step_does_not_wait_for_the_device(synchronization_is_an_error, make_engine, amp, mixing, settings):
    """The whole iteration, as MONAI's trainer calls it, once the batch is on the device."""
    device, chosen = torch.device("cuda"), dict(settings)
    torch.manual_seed(0)
    features = {"spatial_dims": 3, "in_channels": 1, "out_channels": CLASSES, "features": (4, 8)}
    network = CoTrainedPair(DenseSkipUNet, **features).to(device)
    weights = [make_class_weight(name, CLASSES) for name in chosen.pop("weights")]
    step = CoTrainingStep(
        network, WeightedSegmentationLoss(), *weights, ramp=GaussianRamp(), ema=EMANetwork(network),
        mixing=make_mixing(mixing), generator=torch.Generator().manual_seed(1), **chosen,
    )  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=True)
    engine = make_engine(network, optimizer, amp=amp)
    batch = make_batch(device)
    for iteration in range(WARM_UP + STEPS):
        if iteration == WARM_UP:
            torch.cuda.synchronize()
            synchronization_is_an_error()
        output = step(engine, batch)
    torch.cuda.set_sync_debug_mode("default")
    assert all(value.isfinite() for value in output.values())
    assert all(parameter.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("name", CLASS_WEIGHTS)
def test_weights_are_those_of_the_cpu(name):
    weights = []
    for device in ("cpu", "cuda"):
        weight = make_class_weight(name, CLASSES).to(device)
        weight.start(torch.tensor([900, 80, 15, 5], device=device))
        generator = torch.Generator().manual_seed(2)
        for _ in range(5):
            probability = torch.randn(2, CLASSES, 6, 6, 6, generator=generator).softmax(1)
            label, pseudo = (torch.randint(0, CLASSES, (2, 1, 6, 6, 6), generator=generator) for _ in range(2))
            weight.update(class_statistics(*(item.to(device) for item in (probability, label, pseudo))))
        weights.append(weight.weight.cpu())
    assert_close(weights[1], weights[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in MIXINGS if name != "none"])
def test_draws_are_those_of_the_cpu(name):
    batch, mixes = make_batch("cpu"), []
    pseudo = batch["label"].flip(0)
    for device in ("cpu", "cuda"):
        parts = (batch["unlabeled"], pseudo, batch["image"], batch["label"])
        weight = torch.tensor([0.0, 0.2, 0.5, 1.0], device=device)
        generator = torch.Generator().manual_seed(3)
        mixes.append(make_mixing(name)(*(part.to(device) for part in parts), weight, generator=generator))
    for on_cpu, on_gpu in zip(*mixes, strict=True):
        assert torch.equal(on_gpu.cpu(), on_cpu)
