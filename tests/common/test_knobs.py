"""The page of a bundle's options."""

import json

import pytest

from common.errors import ConfigError
from common.runtime.knobs import check_words, knobs_page, plain_keys, read_glossary, write_knobs_pages
from common.runtime.options import has_option

TRAIN = {
    "output_dir": "$@bundle_root + '/output'",
    "seed": 0,
    "split_seed": "@seed",
    "device": "$torch.device('cpu')",
    "network_def": {"_target_": "UNet", "_desc_": "Any network."},
    "train": {"loss": {"_target_": "DiceLoss", "_desc_": "Dice."}, "handlers": ["@seed"]},
    "run": ["$@train#trainer.run()"],
}
INFERENCE = {"seed": 0}
EVALUATE = {"seed": 0, "ood_dir": None}
OVERLAY = {"seed": 3, "methods": {"a": []}, "network_def#norm": "batch"}
GLOSSARY = {
    "output_dir": "Results.",
    "seed": {"all": "A seed.", "organ": "Seed."},
    "split_seed": "Seed of the split.",
    "device": "Device.",
    "ood_dir": "Other scans.",
    "methods": "What is compared.",
    "elsewhere": {"other": "Of another bundle."},
}


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
    (tmp_path / "bundles" / "settings.json").write_text(json.dumps(GLOSSARY))
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


def test_a_bundle_has_its_own_text_or_that_of_all(bundle):
    own, other = read_glossary(bundle), read_glossary(bundle.with_name("other"))
    assert (own["seed"], other["seed"]) == ("Seed.", "A seed.")
    assert "elsewhere" not in own
    assert other["elsewhere"] == "Of another bundle."


def test_a_setting_without_words_is_refused():
    with pytest.raises(ConfigError, match=r"^train\.json has rate; add a text for each to bundles/settings\.json$"):
        check_words({"train": {"seed": 0, "rate": [1, 2], "a": {"_target_": "x"}}}, {"seed": "Seed."})


def test_a_long_block_without_words_is_refused_in_the_first_file_that_has_it():
    block = {"_target_": "UNet", "features": list(range(60))}
    described = block | {"_desc_": "Any network."}
    check_words({"train": {"network": described}, "inference": {"network": block}}, {})
    with pytest.raises(ConfigError, match=r"^inference\.json does not say what network does; add _desc_ to each$"):
        check_words({"train": {}, "inference": {"network": block}, "evaluate": {"network": described}}, {})


def test_settings_alone_are_plain():
    config = {"a": [1, "x"], "b": {"c": None}, "d": ["@a"], "e": {"f": {"_target_": "g"}}, "h": "%i", "_desc_": {}}
    assert plain_keys(config) == ["a", "b"]


@pytest.mark.parametrize("option", ["_desc_", "network_def#_desc_"])
def test_words_are_no_option(option):
    assert not has_option(TRAIN, option)
