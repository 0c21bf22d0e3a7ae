"""What every bundle's configs must say, checked without running them.

Exceptions to a check are declared in ``metadata.json`` under ``contract_exceptions``: ``"<check>:<what>"`` -> reason.
"""

import ast
import configparser
import json
import re

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.reference_resolver import ReferenceResolver

from common.runtime.knobs import WORDS

KEYS = {
    "train": ["bundle_root", "network_def", "network", "train", "validate", "run"],
    "inference": [
        "bundle_root",
        "dataset_dir",
        "output_dir",
        "model_dir",
        "device",
        "network_def",
        "preprocessing",
        "dataset",
        "inferer",
        "postprocessing",
        "handlers",
        "evaluator",
        "run",
    ],
    "evaluate": ["bundle_root", "dataset_dir", "output_dir", "model_dir", "device", "network_def", "run"],
}


DEVICE_LINE = "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')"


# What an expression may use by name; the first three MONAI always gives.
NAMES = {"monai", "torch", "np", "len", "min", "max", "sum", "sorted", "list", "dict", "tuple", "range", "not"}


NAMES |= {"__local_refs"}  # MONAI's own: all that the config has been made into so far, for the settings of a run


SECTIONS = {"train", "validate"}  # hold different parts of different workflows


WORKFLOW = {"run", "session", "preflight", "landmarks_file"}  # what each workflow checks, does, writes or reads


STANDALONE = ("train", "inference", "evaluate")


def leaves(config, path=""):
    """Every value of a config that is no list or dictionary, with its id."""
    pairs = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else None
    if pairs is None:
        yield path, config
        return
    for key, value in pairs:
        yield from leaves(value, f"{path}#{key}" if path else str(key))


def workflows(configs):
    """Names of all config files but the metadata."""
    return [name for name in configs if name != "metadata"]


def expressions(configs):
    """Every expression of a bundle: file, id, text."""
    for name in workflows(configs):
        for path, value in leaves(configs[name]):
            if isinstance(value, str) and value.startswith("$"):
                yield name, path, value


def parse(expression):
    """The syntax tree of an expression, its references replaced by a name."""
    return ast.parse(re.sub(r"@[\w#:.]*\w", "reference", expression[1:].strip()))


def count(tree, *kinds):
    return sum(isinstance(node, kinds) for node in ast.walk(tree))


def plain(block):
    """A block without the sentence that describes it, which stands in one file alone."""
    return {key: value for key, value in block.items() if key != WORDS} if isinstance(block, dict) else block


def excepted(configs, check, what):
    return f"{check}:{what}" in configs["metadata"].get("contract_exceptions", {})


def test_metadata_agrees_with_the_configs(configs):
    formats = configs["metadata"]["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    assert next(iter(formats["inputs"])) == "image"
    assert next(iter(formats["outputs"])) == "pred", "MONAI Label reads the first"
    for name in STANDALONE:
        config = configs[name]
        assert image["num_channels"] == config["in_channels"]
        assert pred["num_channels"] == config["out_channels"]
        assert image["spatial_shape"] == pred["spatial_shape"] == config["roi_size"]
        assert len(config["roi_size"]) == config["spatial_dims"]
    assert sorted(pred["channel_def"], key=int) == [str(index) for index in range(len(pred["channel_def"]))]


@pytest.mark.parametrize("name", STANDALONE)
def test_overridable_keys_exist(configs, overridable, name):
    needed = KEYS[name] + (overridable if name == "train" else [])
    assert not [key for key in needed if key not in configs[name]]


def test_references_resolve(written_configs):
    """Overlays are laid over ``train`` when they train, over the experiment when they are its, else ``evaluate``."""
    broken = []
    for name in workflows(written_configs):
        under = "experiment" if name.startswith("experiment_") else "train" if name.endswith("train") else "evaluate"
        content = ({} if name in STANDALONE else written_configs[under]) | written_configs[name]
        parser = ConfigParser(content)
        for path, value in leaves(content):
            references = ReferenceResolver.match_refs_pattern(value) if isinstance(value, str) else {}
            broken += [f"{name} {path}: {reference}" for reference in references if reference not in parser]
    assert not broken


def test_expressions_are_short(written_configs):
    assert not [
        item
        for item in expressions(written_configs)
        if len(item[2]) > 80 and not excepted(written_configs, "long", item[1])
    ]


def test_expressions_hold_one_idea(written_configs):
    """One call, or one lambda that picks a field; no comprehension in another, no condition in a lambda, no import."""
    comprehensions = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    for name, path, value in expressions(written_configs):
        if value == DEVICE_LINE:
            continue
        where, tree = f"{name} {path}: {value}", parse(value)
        assert not count(tree, ast.Import, ast.ImportFrom), where
        assert count(tree, ast.Call) <= 1, where
        assert count(tree, *comprehensions) <= 1, where
        assert count(tree, ast.Lambda) <= 1, where
        assert not (count(tree, ast.Lambda) and count(tree, ast.IfExp, *comprehensions)), where
        bound = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)} | {"reference"}
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        assert used <= NAMES | bound, where


def test_configs_name_no_place_and_one_device(written_configs):
    for name in workflows(written_configs):
        for path, value in leaves(written_configs[name]):
            if isinstance(value, str):
                assert not value.startswith(("/", "~")), f"{name} {path}"
                assert "://" not in value, f"{name} {path}"
                assert value == DEVICE_LINE or not re.search(r"\bcuda\b", value), f"{name} {path}"
    for name in STANDALONE:
        assert written_configs[name]["device"] == DEVICE_LINE
        assert written_configs[name]["bundle_root"] == {"_target_": "scripts.bundle_root"}


def test_code_is_named_in_one_way(configs):
    for name in workflows(configs):
        targets = [value for path, value in leaves(configs[name]) if path.endswith("_target_")]
        strange = [value for value in targets if re.match(r"(\w+\.)+", value) and value.split(".")[0] != "scripts"]
        assert not [value for value in strange if value.split(".")[0] not in ("torch", "ignite", "monai")]


def test_checkpoint_loaders_read_to_the_device(configs):
    def components(config):
        if isinstance(config, dict | list):
            if isinstance(config, dict) and "_target_" in config:
                yield config
            for value in config.values() if isinstance(config, dict) else config:
                yield from components(value)

    for name in STANDALONE:
        loaders = [part for part in components(configs[name]) if part["_target_"].endswith("CheckpointLoader")]
        assert all("@device" in loader.values() for loader in loaders)


def test_shared_blocks_are_equal(configs):
    """What two files call by the same name is the same, unless the bundle declares ``shared:<id>``."""
    for first in STANDALONE:
        for second in STANDALONE:
            common = configs[first].keys() & configs[second].keys() - SECTIONS - WORKFLOW
            different = [key for key in common if plain(configs[first][key]) != plain(configs[second][key])]
            assert not [key for key in different if not excepted(configs, "shared", key)]


def test_declared_exceptions_have_reasons(configs):
    assert all(configs["metadata"].get("contract_exceptions", {"": "none"}).values())


def test_first_lines_say_data_network_loss_optimizer_and_schedule(bundle):
    """A reader understands a training from the first 41 lines."""
    lines = (bundle / "configs" / "train.json").read_text(encoding="utf-8").splitlines()
    begun = [re.match(r'  "(\w+)":', line) for line in lines[:42]]
    keys = [match[1] for match in begun if match]
    assert keys[1] == "dataset_dir"
    assert {"out_channels", "roi_size", "max_epochs", "batch_size", "learning_rate"} <= set(keys)
    # The line after the last of them begins another.
    order = [keys.index(key) for key in ("network_def", "loss", "optimizer", "schedule")]
    assert order == sorted(order)
    assert keys[-1] != "schedule"


@pytest.mark.parametrize("name", STANDALONE)
def test_bundles_order_their_keys_alike(all_bundles, name):
    """Keys that two bundles share come in the same order in both."""
    keys = [list(json.loads((path / f"configs/{name}.json").read_text(encoding="utf-8"))) for path in all_bundles]
    for other in keys[1:]:
        assert [key for key in keys[0] if key in other] == [key for key in other if key in keys[0]]


def test_overlay_only_overrides(configs):
    """``multi_gpu_train.json`` names no handler by its position."""
    assert len(configs["multi_gpu_train"]) < 10
    assert not [key for key in configs["multi_gpu_train"] if re.search(r"#\d", key)]
    assert "handlers" not in json.dumps(configs["multi_gpu_train"])


def test_logging_conf_writes_to_the_standard_output(bundle):
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(bundle / "configs" / "logging.conf")
    handlers = [parser[name] for name in parser.sections() if name.startswith("handler_")]
    assert [(handler["class"], handler["args"]) for handler in handlers] == [("StreamHandler", "(sys.stdout,)")]


@pytest.mark.parametrize("name", ["train", "inference"])
def test_monai_finds_every_property(bundle, name, dataset, bundle_importable, tmp_path):
    with bundle_importable(bundle):
        workflow = ConfigWorkflow(
            config_file=str(bundle / "configs" / f"{name}.json"), workflow_type=name, logging_file=False,
            dataset_dir=str(dataset), output_dir=str(tmp_path), device="cpu",
        )  # fmt: skip
        workflow.initialize()
        assert workflow.check_properties() == []
