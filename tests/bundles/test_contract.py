"""What every bundle's files must say, checked without running them. Exceptions to a check are declared in the bundle's
``metadata.json`` under ``contract_exceptions``: ``"<check>:<what>"`` -> reason."""

import ast
import configparser
import importlib.metadata
import json
import re
from pathlib import Path
from urllib.parse import unquote

import jsonschema
import numpy as np
import pytest
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.reference_resolver import ReferenceResolver

HERE = Path(__file__).resolve().parent
FILES = [
    "configs/metadata.json",
    "configs/train.json",
    "configs/inference.json",
    "configs/evaluate.json",
    "configs/logging.conf",
    "configs/multi_gpu_train.json",
    "docs/README.md",
    "docs/data_license.txt",
    "LICENSE",
    "models/model.pt",
    "models/signature_bank.npz",
]
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
SECTIONS = {"train", "validate", "bank"}  # hold different parts of different workflows
WORKFLOW = {"run", "session", "preflight"}  # what each workflow checks and does
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


def excepted(configs, check, what):
    return f"{check}:{what}" in configs["metadata"].get("contract_exceptions", {})


@pytest.mark.parametrize("file", FILES)
def test_file_exists(bundle, file):
    assert (bundle / file).is_file()


def test_config_files_end_with_a_newline(bundle):
    files = [path for path in (bundle / "configs").iterdir() if path.is_file()]
    assert not [path.name for path in files if not path.read_bytes().endswith(b"\n")]


def linked_files(readme):
    """Files that a page links, by Markdown or HTML; places on the web and in the page itself do not count."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", readme.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r"(?:src|href)\s*=\s*[\"']([^\"']+)", text)
    links += re.findall(r"^\s*\[[^\]]+\]:\s*(\S+)", text, flags=re.MULTILINE)
    local = [unquote(link.split("#")[0]) for link in links if not re.match(r"[a-z][a-z0-9+.-]*:|#|//", link)]
    return {link: readme.parent / link for link in local}


def test_links_are_found(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(
        "[![a](a.png)](b.md#part) <img src='c%20d.png'> [e](https://f.g/h) [i](#j) `[k](l)`\n[m](n/ \"o\")\n[p]: q.md\n"
        "```\n[r](s)\n```\n[t](mailto:u@v.w)\n"
    )
    assert set(linked_files(page)) == {"a.png", "b.md", "c d.png", "n/", "q.md"}


def test_linked_files_exist(bundle):
    linked = {link: path for page in (bundle / "docs").glob("*.md") for link, path in linked_files(page).items()}
    assert not [link for link, path in linked.items() if not path.exists()]


def test_files_linked_from_the_readme_of_the_collection_exist(repository, all_bundles):
    linked = linked_files(repository / "README.md")
    others = [repository / "CONTRIBUTING.md", *(repository / "docs").glob("*.md")]
    for page in (linked, *map(linked_files, others)):
        assert not [link for link, path in page.items() if not path.exists()]
    pages = {path.resolve() for path in linked.values()}
    assert not [path.name for path in all_bundles if (path / "docs" / "README.md").resolve() not in pages]


def test_files_are_small_enough_to_pass_on(bundle):
    own = [path for path in bundle.rglob("*") if path.is_file() and "output" not in path.parts]
    assert not [path for path in own if path.stat().st_size > 25e6]
    assert (bundle / "models" / "model.pt").stat().st_size <= 8e6


def test_name_makes_monai_label_segment(bundle):
    assert re.fullmatch("[a-z][a-z0-9_]*", bundle.name)
    assert not [word for word in ("deepedit", "deepgrow", "detection", "classification") if word in bundle.name]


def test_metadata_follows_the_schema(configs):
    schema = json.loads((HERE / "meta_schema_20240725.json").read_text(encoding="utf-8"))
    assert configs["metadata"]["schema"].endswith("meta_schema_20240725.json")
    jsonschema.validate(configs["metadata"], schema)
    for key in ("name", "version", "changelog", "intended_use", "references"):
        assert configs["metadata"][key], key


def test_version_has_a_changelog_entry(configs):
    version, changelog = configs["metadata"]["version"], configs["metadata"]["changelog"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert all(changelog.values())
    assert version == max(changelog, key=lambda text: tuple(map(int, text.split("."))))


def test_versions_are_the_supported_ones(configs, repository):
    lines = (repository / "requirements.txt").read_text(encoding="utf-8").splitlines()
    supported = dict(line.split("==") for line in lines if "==" in line)
    metadata = configs["metadata"]
    named = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
    assert {package: metadata[key] for package, key in named.items()} == {name: supported[name] for name in named}
    packages = metadata["required_packages_version"] | metadata.get("dicom_seg_packages_version", {})
    for package, version in packages.items():
        assert supported[package] == version, package


def test_versions_for_monai_label_are_those_of_its_environment(configs, repository):
    lines = (repository / "requirements-label.txt").read_text(encoding="utf-8").splitlines()
    supported = dict(line.split("==") for line in lines if "==" in line)
    for package, version in configs["metadata"]["monailabel_packages_version"].items():
        assert supported[package] == version, package


def test_supported_versions_are_installed(repository):
    for line in (repository / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if "==" in line:
            package, version = line.split("==")
            assert importlib.metadata.version(package).split("+")[0] == version, package


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


def test_references_resolve(configs):
    """Overlays are laid over ``train`` when they train, else over ``evaluate``."""
    broken = []
    for name in workflows(configs):
        base = {} if name in STANDALONE else configs["train" if name.endswith("train") else "evaluate"]
        content = base | configs[name]
        parser = ConfigParser(content)
        for path, value in leaves(content):
            references = ReferenceResolver.match_refs_pattern(value) if isinstance(value, str) else {}
            broken += [f"{name} {path}: {reference}" for reference in references if reference not in parser]
    assert not broken


def test_expressions_are_short(configs):
    assert not [item for item in expressions(configs) if len(item[2]) > 80 and not excepted(configs, "long", item[1])]


def test_expressions_hold_one_idea(configs):
    """One call, or one lambda that picks a field; no comprehension in another, no condition in a lambda, no import."""
    comprehensions = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    for name, path, value in expressions(configs):
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


def test_configs_name_no_place_and_one_device(configs):
    for name in workflows(configs):
        for path, value in leaves(configs[name]):
            if isinstance(value, str):
                assert not value.startswith(("/", "~")), f"{name} {path}"
                assert "://" not in value, f"{name} {path}"
                assert value == DEVICE_LINE or not re.search(r"\bcuda\b", value), f"{name} {path}"
    for name in STANDALONE:
        assert configs[name]["device"] == DEVICE_LINE
        assert configs[name]["bundle_root"] == {"_target_": "scripts.bundle_root"}


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
            common = configs[first].keys() & configs[second].keys() - SECTIONS - WORKFLOW - {"_desc_"}
            different = [key for key in common if configs[first][key] != configs[second][key]]
            assert not [key for key in different if not excepted(configs, "shared", key)]


def test_declared_exceptions_have_reasons(configs):
    assert all(configs["metadata"].get("contract_exceptions", {"": "none"}).values())


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


def test_bank_belongs_to_the_weights(bundle, judges, configs, bundle_importable):
    if not judges:
        pytest.skip("this bundle gives no verdict")
    with bundle_importable(bundle):
        from scripts.common.runtime.weights import read_checkpoint
        from scripts.common.spectral import SignatureBank, bank_settings, weights_digest

        state = read_checkpoint(bundle / "models" / "model.pt")
        bank = SignatureBank.load(bundle / "models" / "signature_bank.npz")
        parser = ConfigParser(configs["inference"])
        names = ("image_transforms", "inferer", "network_def")
        transforms, inferer, network = (parser.get_parsed_content(name) for name in names)
        bank.check(**bank_settings(inferer, transforms, weights_digest(state)))
    for name in ("per_voxel", "precision", "overlap", "divisor"):
        assert getattr(bank.settings, name) == configs["inference"][name], name
    assert bank.settings.roi_size == tuple(configs["inference"]["roi_size"])
    assert bank.settings.layers == tuple(configs["inference"]["feature_layers"])
    network.load_state_dict(state)
    assert all(value.isfinite().all() for value in state.values())


def test_bank_tells_nothing_of_a_patient(bundle, judges):
    if not judges:
        pytest.skip("this bundle gives no verdict")
    with np.load(bundle / "models" / "signature_bank.npz", allow_pickle=False) as bank:
        content = {name: bank[name] for name in bank.files}
    texts = [str(text) for value in content.values() if value.dtype.kind == "U" for text in value.ravel()]
    assert all(value.dtype.kind in "Ufib" for value in content.values())
    assert not [text for text in texts if re.search(r"[/\\]|\.nii|\.dcm|case|patient|\d\.\d+\.\d+\.", text)]
