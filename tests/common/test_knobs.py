"""The page of a bundle's options."""

import json

import pytest

from common.errors import ConfigError
from common.runtime.knobs import check_words, knobs_page, plain_keys, write_knobs_pages
from common.runtime.options import has_option

TRAIN = {
    "output_dir": "$@bundle_root + '/output'",
    "seed": 0,
    "split_seed": "@seed",
    "device": "$torch.device('cpu')",
    "network_def": {"_target_": "UNet", "_desc_": "Any network."},
    "train": {"loss": {"_target_": "DiceLoss", "_desc_": "Dice."}, "handlers": ["@seed"]},
    "run": ["$@train#trainer.run()"],
    "_desc_": {"output_dir": "Results.", "seed": "Seed.", "split_seed": "Seed of the split.", "device": "Device."},
}
INFERENCE = {"seed": 0, "_desc_": {}}
EVALUATE = {"seed": 0, "ood_dir": None, "_desc_": {"ood_dir": "Other scans."}}
OVERLAY = {"seed": 3, "methods": {"a": []}, "network_def#norm": "batch", "_desc_": {"methods": "What is compared."}}


@pytest.fixture
def bundle(tmp_path):
    files = {
        "train": TRAIN,
        "inference": INFERENCE,
        "evaluate": EVALUATE,
        "compare": OVERLAY,
        "metadata": {"name": "x"},
    }
    for name, content in files.items():
        path = tmp_path / "bundles" / "organ" / "configs" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return tmp_path / "bundles" / "organ"


def test_page_names_default_use_and_meaning(bundle):
    rows = [line for line in knobs_page(bundle).splitlines() if line.startswith("| `")]
    assert rows == [
        "| `output_dir` | `<bundle_root>/output` | train | Results. |",
        "| `seed` | `0` | all | Seed. |",
        "| `split_seed` | that of `seed` | train | Seed of the split. |",
        "| `device` | see right | train | Device. |",
        "| `ood_dir` | none | evaluate | Other scans. |",
        "| `methods` | see the file | What is compared. |",
        "| `network_def` | Any network. |",
        "| `train#loss` | Dice. |",
    ]
    assert "## With compare.json" in knobs_page(bundle)
    assert "Other defaults: `seed` `3`." in knobs_page(bundle)


def test_pages_of_all_bundles_are_written(bundle):
    write_knobs_pages(str(bundle.parent))
    assert (bundle / "docs" / "knobs.md").read_text(encoding="utf-8") == knobs_page(bundle)


def test_a_setting_without_words_is_refused():
    with pytest.raises(ConfigError, match=r"^train\.json does not describe seed, rate; add a text for each to _desc_$"):
        check_words({"train": {"seed": 0, "rate": [1, 2], "a": {"_target_": "x"}}})


@pytest.mark.parametrize("second", [{"_desc_": {"gone": "No such key."}}, {"seed": 0, "_desc_": {"seed": "Again."}}])
def test_words_without_a_key_or_twice_are_refused(second):
    with pytest.raises(ConfigError, match=r"^inference\.json describes (gone|seed), "):
        check_words({"train": {"seed": 0, "_desc_": {"seed": "Seed."}}, "inference": second})


def test_settings_alone_are_plain():
    config = {"a": [1, "x"], "b": {"c": None}, "d": ["@a"], "e": {"f": {"_target_": "g"}}, "h": "%i", "_desc_": {}}
    assert plain_keys(config) == ["a", "b"]


@pytest.mark.parametrize("option", ["_desc_", "_desc_#seed", "network_def#_desc_"])
def test_words_are_no_option(option):
    assert not has_option(TRAIN, option)
