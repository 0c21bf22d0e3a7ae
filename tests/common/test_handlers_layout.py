"""Pictures have their channels last where steps are faster for it; the layout changes nothing but the speed."""

import copy

import pytest
import torch
from ignite.engine import Engine
from monai.networks.nets import BasicUNet
from torch.testing import assert_close

from common.handlers import ChannelsLast
from common.networks import DenseSkipUNet, HeadedUNet

LAST = torch.channels_last


def laid_out(network, batch, device="cpu", *, amp=False):
    """The batch that a step sees."""
    seen = []
    engine = Engine(lambda _engine, batch: seen.append(batch))
    ChannelsLast(network, device, amp=amp).attach(engine)
    engine.run([batch])
    return seen[0]


def batch_of(channels=3, dims=2):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, channels, *[16] * dims, generator=generator)
    return {"image": image, "label": torch.ones(2, 1, *[16] * dims, dtype=torch.long), "names": ["a", "b"]}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("norm", ["batch", "group", None])
def test_feature_maps_have_their_channels_last(norm, channels):
    network = HeadedUNet(2, channels, 2, features=(8, 16), norm=norm)
    batch = batch_of(channels)
    seen = laid_out(network, batch)
    assert torch.equal(seen["image"], batch["image"])
    assert network.decode(seen["image"]).is_contiguous(memory_format=LAST)
    assert not network.decode(batch["image"]).is_contiguous(memory_format=LAST)
    assert seen["label"] is batch["label"]
    assert seen["names"] == ["a", "b"]


@pytest.mark.parametrize(
    ("network", "batch", "device"),
    [
        (DenseSkipUNet(2, 3, 2, features=(4, 8), norm="instance"), batch_of(), "cpu"),
        (HeadedUNet(3, 3, 2, features=(4, 8), norm="batch"), batch_of(dims=3), "cpu"),
        (HeadedUNet(2, 3, 2, features=(4, 8), norm="batch"), batch_of(), "cuda"),
    ],
    ids=["instance", "volumes", "gpu"],
)
def test_batches_stay_where_nothing_is_gained(network, batch, device):
    assert laid_out(network, batch, device)["image"] is batch["image"]


@pytest.mark.parametrize(("norm", "stays"), [("group", True), ("batch", False)])
def test_groups_are_left_as_they_are_in_bfloat16(norm, stays):
    network, batch = HeadedUNet(2, 3, 2, features=(8, 16), norm=norm), batch_of()
    assert (laid_out(network, batch, amp=True)["image"] is batch["image"]) == stays


def test_layout_changes_neither_loss_nor_gradients_nor_the_layout_of_weights():
    torch.manual_seed(0)
    features = (4, 4, 8, 8, 8, 4)
    first = BasicUNet(2, 3, 2, features=features, norm="batch").double()
    second = copy.deepcopy(first)
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    losses = []
    for network, given in ((first, image), (second, laid_out(first, {"image": image})["image"])):
        loss = network(given).square().mean()
        loss.backward()
        losses.append(loss)
    assert_close(losses[0], losses[1])
    for (name, one), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert_close(one.grad, other.grad, msg=name)
        assert one.stride() == other.stride()
        assert one.grad.stride() == other.grad.stride()
