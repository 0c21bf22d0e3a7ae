"""Settings that travel with weights: what is kept, how it comes back, and what may not contradict it."""

import json

import pytest
from monai.bundle import ConfigParser
from monai.networks.nets import BasicUNet

from common.errors import ConfigError
from common.networks import DenseSkipUNet, SliceWise
from common.runtime.model_settings import SETTINGS_FILE, ModelSettings, read_settings, with_defaults
from common.runtime.networks_by_name import build_network

SLICES = {
    "_target_": "scripts.common.networks.SliceWise",
    "_desc_": "Not kept.",
    "member": {"_target_": "BasicUNet", "_mode_": "callable"},
    "in_channels": "@in_channels",
    "out_channels": 2,
    "features": [2, 2, 2, 2, 2, 2],
    "norm": "$'batch'",
}
KEPT = {
    "in_channels": 1,
    "roi_size": [16, 16, 1],
    "spacing": None,
    "network_def": {
        "_target_": "scripts.common.networks.SliceWise",
        "member": {"_target_": "BasicUNet", "_mode_": "callable"},
        "in_channels": 1,
        "out_channels": 2,
        "features": [2, 2, 2, 2, 2, 2],
        "norm": "batch",
    },
}


@pytest.fixture
def written(tmp_path, bundle_importable, repository):
    """Folder of the settings that a training config came to."""
    config = {
        "in_channels": 1,
        "roi_size": [16, 16, 1],
        "spacing": None,
        "other": 3,
        "network_def": SLICES,
        "work": ["@roi_size", "@spacing", "@other", "@network_def"],
        "settings_writer": {
            "_target_": "scripts.common.runtime.model_settings.SettingsWriter",
            "save_dir": str(tmp_path),
            "config": "$__local_refs",
            "class_names": {"1": "lung"},
        },
    }
    with bundle_importable(repository / "bundles" / "spectral_ood"):
        parser = ConfigParser(config)
        writer = parser.get_parsed_content("settings_writer")
        # What is resolved later counts as well: a config is resolved from its end.
        parser.get_parsed_content("work")
        writer.write()
    return tmp_path


def evaluation(folder, **overrides):
    """A config that takes its settings from a folder of weights."""
    config = {
        "in_channels": "$@model_settings.get('in_channels', 3)",
        "roi_size": "$@model_settings.get('roi_size', [8, 8, 8])",
        "spacing": "$@model_settings.get('spacing', [1, 1, 1])",
        "network_def": {
            "_target_": "$@model_settings.network('common.networks.DenseSkipUNet')",
            "spatial_dims": 3,
            "in_channels": "@in_channels",
            "out_channels": 1,
            "features": [2, 4],
            "dropout": 0.5,
        },
        "model_settings": {
            "_target_": "common.runtime.model_settings.ModelSettings",
            "model_dir": str(folder),
            "config": "$__local_refs",
        },
        "all": ["@in_channels", "@roi_size", "@spacing", "@network_def"],
    }
    parser = ConfigParser(config)
    parser.update(overrides)
    return parser


def test_writer_keeps_the_settings_and_the_network_as_named(written):
    assert json.loads((written / SETTINGS_FILE).read_text()) == KEPT | {"class_names": {"1": "lung"}}
    assert ModelSettings(written).class_names == {"1": "lung"}
    assert ModelSettings(written / "nowhere").class_names == {}


def test_settings_of_the_weights_are_the_defaults(written):
    in_channels, roi_size, spacing, network = evaluation(written).get_parsed_content("all")
    assert (in_channels, roi_size, spacing) == (1, [16, 16, 1], None)
    assert isinstance(network, SliceWise)
    # A user's word rules.
    assert evaluation(written, roi_size=[4, 4, 4]).get_parsed_content("roi_size") == [4, 4, 4]


def test_weights_without_settings_take_those_of_the_config(tmp_path):
    in_channels, roi_size, spacing, network = evaluation(tmp_path).get_parsed_content("all")
    assert (in_channels, roi_size, spacing) == (3, [8, 8, 8], [1, 1, 1])
    assert isinstance(network, DenseSkipUNet)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"in_channels": 3}, r"^in_channels is 3, but the weights in .* trained with 1; leave it out, or train anew$"),
        ({"spacing": [2, 2, 2]}, r"^spacing is \[2, 2, 2\], but .* with null; "),
        ({"network_def": {"_target_": "torch.nn.Identity"}}, "^network_def#"),
        ({"network_def": KEPT["network_def"] | {"_target_": "common.networks.SliceWise"}}, "^network_def#_target_ is "),
        ({"roi_size": [4, 4, 4]}, None),
    ],
)  # fmt: skip
def test_contradiction_names_the_setting_and_both_values(written, overrides, message):
    parser = evaluation(written, **overrides)
    parser.get_parsed_content("all")
    check = parser.get_parsed_content("model_settings").check
    if message is None:
        check()
        return
    with pytest.raises(ConfigError, match=message):
        check()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"features": [1, 2]},
            r"^network_def#features is \[1, 2\], but the weights in .* \[2, 2, 2, 2, 2, 2\]; leave it",
        ),
        ({"norm": "instance"}, '^network_def#norm is "instance", but .* trained with "batch"'),
        ({"norm": "batch", "dropout": 0.3}, None),
    ],
)
def test_argument_that_a_user_sets_may_not_contradict(written, tmp_path, overrides, message):
    defaults = {"in_channels": "@in_channels", "features": [2, 4], "norm": "instances", "dropout": 0.5}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.json").write_text(json.dumps({"network_def": defaults}))
    settings = ModelSettings(written, bundle_root=tmp_path)
    build = settings.network("common.networks.DenseSkipUNet")
    arguments = defaults | {"in_channels": 7} | overrides
    if message is None:
        assert isinstance(build(**arguments), SliceWise)
        return
    with pytest.raises(ConfigError, match=message):
        build(**arguments)


def test_dropout_is_that_of_the_config(tmp_path):
    kept = {"_target_": "scripts.common.networks.DenseSkipUNet", "spatial_dims": 3, "in_channels": 1}
    kept |= {"out_channels": 1, "features": [2, 4], "dropout": 0.0}
    (tmp_path / SETTINGS_FILE).write_text(json.dumps({"network_def": kept}))
    network = evaluation(tmp_path).get_parsed_content("network_def")
    rates = {part.p for part in network.modules() if type(part).__name__.startswith("Dropout")}
    assert rates == {0.5}


@pytest.mark.parametrize("name", ["os.system", "scripts.common.runtime.files.os.remove", "Popen", "torch.nn.Linear",
                                  "scripts.common.runtime.files.write_json", "scripts.common.nowhere.Net"])  # fmt: skip
def test_nothing_but_a_network_is_ever_built(name):
    with pytest.raises(ConfigError, match="which is none of MONAI or of this collection"):
        build_network({"_target_": name}, "settings")


def test_networks_are_built_with_their_arguments():
    arguments = {"spatial_dims": 2, "features": [2, 2, 2, 2, 2, 2]}
    network = build_network({"_target_": "monai.networks.nets.BasicUNet", **arguments}, "settings")
    assert isinstance(network, BasicUNet)
    assert network.conv_0.conv_0.conv.weight.shape == (2, 1, 3, 3)
    with pytest.raises(ConfigError, match=r"^settings does not describe a network \(.*colour"):
        build_network({"_target_": "BasicUNet", "colour": 3}, "settings")


@pytest.mark.parametrize("text", ["{", "[]", '{"colour": 1}', '"a"'])
def test_damaged_file_is_one_line(tmp_path, text):
    (tmp_path / SETTINGS_FILE).write_text(text)
    with pytest.raises(ConfigError, match=rf"^{tmp_path / SETTINGS_FILE} .*copy the "):
        read_settings(tmp_path / SETTINGS_FILE)


def test_config_reads_as_for_weights_without_settings():
    written = {"a": ["$@model_settings.get('spacing', None)"], "_target_": "$@model_settings.network('UNet')"}
    assert with_defaults(written | {"b": "$@a + 1"}) == {"a": [None], "_target_": "UNet", "b": "$@a + 1"}
