"""What is read of a network: its weights in whatever file, and what its config tells of its input."""

import json

import pytest
import torch
from torch import nn

from common.errors import ConfigError
from common.own_network import read_network
from common.own_network.config import NetworkConfig
from common.own_network.fit import own_inferer
from tests.common.own_network.conftest import CONFIG, LOADING, NETWORK, PREPARATION


def same_weights(network, zoo):
    state = zoo.network.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_checkpoints_keep_the_weights_under_a_key(zoo, tmp_path, key):
    torch.save({key: zoo.network.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pt")
    given = read_network(NETWORK, weights=str(tmp_path / "checkpoint.pt"), device="cpu")
    assert same_weights(given.network, zoo)
    assert (given.spatial_dims, given.in_channels, given.inferer, given.sigmoid) == (3, 1, None, None)
    assert not given.network.training


def test_torchscript_brings_what_the_export_has_put_into_it(zoo, tmp_path):
    channels = {"network_data_format": {"inputs": {"image": {"num_channels": 1}}}}
    files = {"inference.json": json.dumps(CONFIG), "metadata.json": json.dumps(channels)}
    torch.jit.save(torch.jit.load(zoo.root / "model.ts"), tmp_path / "model.ts", _extra_files=files)
    given = read_network(str(tmp_path / "model.ts"), device="cpu")
    assert same_weights(given.network, zoo)
    assert (list(given.inferer.roi_size), given.in_channels) == ([16, 16, 16], 1)
    assert [type(transform).__name__ for transform in (*given.load_transforms, *given.image_transforms)] == [
        "LoadScand", "CheckImaged", "Orientationd", "Spacingd", "ScaleIntensityRanged", "EnsureTyped",
    ]  # fmt: skip


def test_scans_are_prepared_on_the_cpu_wherever_the_network_runs():
    config = NetworkConfig(CONFIG | {"device": "$torch.device('meta')"})
    assert config.make("preprocessing").transforms[-1].converter.device == torch.device("cpu")


LOADER = {"_target_": "LoadImaged", "keys": "image"}


@pytest.mark.parametrize(
    ("transforms", "reads", "kinds"),
    [
        (LOADING + PREPARATION, True, ["Orientationd", "Spacingd", "ScaleIntensityRanged", "EnsureTyped"]),
        # Without a loader, files are read all the same; one that comes later is left in its place.
        (PREPARATION[:1], True, ["Orientationd"]),
        ([PREPARATION[3], LOADER], False, ["EnsureTyped", "LoadImaged"]),
        ([], True, []),
    ],
)
def test_loaders_at_the_beginning_make_way_for_ours(transforms, reads, kinds):
    config = NetworkConfig({"preprocessing": {"_target_": "Compose", "transforms": transforms}, "device": "cpu"})
    found, prepared = config.make_transforms()
    assert (found, [type(transform).__name__ for transform in prepared]) == (reads, kinds)


@pytest.mark.parametrize(
    ("item", "found"), [({"sigmoid": True}, True), ({"softmax": True}, None), ({"sigmoid": False}, None)]
)
def test_postprocessing_tells_how_channels_are_read(item, found):
    config = {
        "postprocessing": {"_target_": "Compose", "transforms": [{"_target_": "Activationsd", "keys": "pred"} | item]}
    }
    assert NetworkConfig(config).reads_sigmoid() is found


@pytest.mark.parametrize(
    ("inferer", "said", "window"),
    [
        ({"_target_": "SlidingWindowInferer", "roi_size": 16, "overlap": 0.5}, {}, ((16, 16, 16), 0.5)),
        ({"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 8]}, {"overlap": 0.75}, ((16, 16, 8), 0.75)),
        ({"_target_": "SimpleInferer"}, {"roi_size": [8, 8, 8]}, ((8, 8, 8), 0.25)),
        ({"_target_": "SimpleInferer"}, {}, None),
        ({"_target_": "SlidingWindowInferer", "roi_size": [16, 16, -1]}, {}, None),
    ],
)
def test_window_is_that_of_the_inferer_unless_told(zoo, inferer, said, window):
    config = {"network_def": NETWORK, "inferer": inferer}
    given = read_network(config, weights=str(zoo.bundle / "models" / "model.pt"), device="cpu")
    if window is None:
        with pytest.raises(ConfigError, match=r"roi_size is .*; needed are 3 positive whole numbers"):
            own_inferer(given, layers=None, **said)
    else:
        chosen = own_inferer(given, layers=None, **said)
        assert (chosen.roi_size, chosen.overlap) == window


def test_network_without_a_convolution_needs_its_channels(tmp_path):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "model.pt")
    definition = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}
    with pytest.raises(ConfigError, match="nothing tells how many channels the network takes; set in_channels"):
        read_network(definition, weights=str(tmp_path / "model.pt"))
    assert read_network(definition, weights=str(tmp_path / "model.pt"), in_channels=4).in_channels == 4
