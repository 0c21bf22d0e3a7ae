import json
import sys

import pytest
from monai.utils import set_determinism

from common.errors import ConfigError
from common.experiments.bundle_runs import bundle_config, require_options


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A bundle whose network an overlay replaces."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    train = {
        "max_epochs": 3,
        "network_def": {"_target_": "BasicUNet", "features": [1, 2]},
        "inferer": {"_target_": "x"},
    }
    overlay = {"network_pair": "a", "network_def": {"_target_": "Other", "pair": "@network_pair"}}
    (tmp_path / "configs").mkdir()
    for name, content in (("train", train), ("other", overlay)):
        (tmp_path / "configs" / f"{name}.json").write_text(json.dumps(content))
    yield str(tmp_path)
    set_determinism(None)


def test_options_that_a_config_does_not_have_are_left_out(bundle):
    options = {"seed": 1, "max_epochs": 5, "inferer#with_signature": False, "network_def#features": [3], "other#a": 1}
    config = bundle_config(bundle, "train", options).config
    assert config["max_epochs"] == 5
    assert config["inferer"]["with_signature"] is False
    assert config["network_def"]["features"] == [3]
    assert not {"seed", "other"} & config.keys()


def test_overlay_is_laid_over_and_what_it_replaces_takes_no_options(bundle):
    options = {"seed": 1, "network_def#features": [3], "network_pair": "b", "network_def#pair": "c"}
    config = bundle_config(bundle, "train", options, ["other.json"]).config
    assert config["network_pair"] == "b"
    assert config["network_def"] == {"_target_": "Other", "pair": "c"}
    assert config["max_epochs"] == 3


def test_overlay_that_does_not_exist_is_named(bundle):
    with pytest.raises(ConfigError, match=r"overlays names 'none\.json', but there is no such file in "):
        bundle_config(bundle, "train", {"seed": 1}, ["none.json"])


def test_options_that_exist_pass(bundle):
    require_options(bundle, "train", {"max_epochs": 1, "network_def#features": [1], "inferer#mode": 2}, where="here")
    require_options(bundle, "train", {"network_pair": "b", "network_def#pair": "c"}, ["other.json"], where="here")


@pytest.mark.parametrize(
    ("option", "overlays", "words"),
    [
        ("max_epoch", [], "here sets 'max_epoch', which is no option of train.json; did you mean 'max_epochs'?"),
        ("zzz", [], "here sets 'zzz', which is no option of train.json"),
        ("network_pair", [], "here sets 'network_pair'"),
        ("zzz#a", [], "here sets 'zzz#a'"),
        ("network_def#features", ["other.json"], "here sets 'network_def#features'"),
    ],
)
def test_options_that_do_not_exist_are_named(bundle, option, overlays, words):
    with pytest.raises(ConfigError) as caught:
        require_options(bundle, "train", {option: 1}, overlays, where="here")
    assert str(caught.value).startswith(words)
