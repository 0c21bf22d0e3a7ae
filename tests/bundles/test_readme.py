"""What the README of every bundle promises: knobs that exist, and commands that run."""

import itertools
import json
import re
import shlex

import pytest
from fire.parser import DefaultParseValue

from common.runtime.options import check_options
from tests.running import has_key

SECTIONS = ("not for clinical use", "citation", "when it fails", "monai label", "offline")


COMPARISONS = {"compare.json", "experiment.json", "learning_curve.json"}
"""Those of many trainings; one command of each kind is enough, as they differ in what these tests replace."""

FIXED = {"is_main", "distributed", "spatial_dims", "in_channels", "divisor"}
"""Keys that overlays set, or that go with the network."""


@pytest.fixture
def readme(bundle):
    return (bundle / "docs" / "README.md").read_text(encoding="utf-8")


def bash_commands(text):
    """The lines of fenced bash blocks, continued lines joined, and commands inside the text."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")] + re.findall(r"`([^`\n]* -m [^`\n]*)`", text)


def bundle_arguments(command):
    """Arguments of ``monai.bundle`` in a command line, empty for other commands."""
    words = shlex.split(command)
    return words[words.index("monai.bundle") + 1 :] if "monai.bundle" in words else []


def table_keys(text):
    """Names in the first column of the table of the section on knobs."""
    section = re.search(r"^## Knobs\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert section, "no section called 'Knobs'"
    first_cells = [line.split("|")[1] for line in section.group(1).splitlines() if line.startswith("|")][2:]
    return [key for cell in first_cells for key in re.findall(r"`([^`]+)`", cell)]


def test_pages_name_the_archive_of_this_version(readme, bundle, repository):
    version = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"]
    shared = [repository / "README.md", repository / "common" / "label_app" / "README.md"]
    pages = [readme, *(page.read_text(encoding="utf-8") for page in shared)]
    named = [number for page in pages for number in re.findall(rf"{bundle.name}_v(\d+\.\d+\.\d+)\.zip", page)]
    assert set(named) == {version}


@pytest.mark.parametrize("words", SECTIONS)
def test_readme_covers(readme, words):
    assert words in readme.lower()


def test_every_knob_exists(overridable, readme, configs):
    keys = table_keys(readme)
    assert keys

    known = [configs[name] for name in ("train", "inference", "evaluate")]
    assert not [key for key in keys if not any(has_key(config, key) for config in known)]
    assert not [key for key in overridable if key not in keys]
    plain = {key for config in known for key, value in config.items() if not _refers(value)}
    assert not sorted(plain - set(keys) - FIXED)


def test_every_option_of_a_command_exists(readme, bundle, bundle_importable, monkeypatch):
    monkeypatch.chdir(bundle)
    commands = [arguments for arguments in map(bundle_arguments, bash_commands(readme)) if arguments]
    assert len(commands) >= 3, "train, evaluate, infer"
    with bundle_importable(bundle):
        from scripts.common.runtime.options import check_options

        for arguments in commands:
            check_options(arguments)


def test_commands_on_the_same_data_or_weights_name_the_same_classes(readme):
    found = {}
    for arguments in filter(None, map(bundle_arguments, bash_commands(readme))):
        options = dict(itertools.pairwise(arguments))
        for key in {"--dataset_dir", "--model_dir"} & options.keys():
            found.setdefault((key, options[key]), set()).add(options.get("--out_channels"))
    assert found
    assert not {place: classes for place, classes in found.items() if len(classes) > 1}


def test_every_command_runs(readme, bundle, dataset, trained, run_config, monkeypatch, tmp_path):
    """In one process and with tiny settings; what it reads and writes is replaced."""
    monkeypatch.chdir(bundle)
    used = set()
    for arguments in filter(None, map(bundle_arguments, bash_commands(readme))):
        if arguments[0] != "run" or "multi_gpu" in " ".join(arguments):
            continue
        check_options(arguments)
        values = dict(itertools.pairwise(arguments))
        options = {key[2:]: DefaultParseValue(value) for key, value in values.items() if key.startswith("--")}
        names = [re.sub(r".*configs/", "", name) for name in _as_list(options.pop("config_file"))]
        # One size and number of classes for all, since the weights and bank of one command are the next one's.
        options = {key: value for key, value in options.items() if key not in ("roi_size", "out_channels")}
        comparison = (*names, arguments[1]) if set(names) & COMPARISONS else None
        if comparison and comparison in used:
            continue
        run_id = arguments[1] if not arguments[1].startswith("--") else "run"
        replaced = {"dataset_dir": dataset, "ood_dir": dataset, "split_file": None, "damages": []}
        replaced |= {"initial_weights": None, "foreground_labels": None, "samples_per_epoch": 2, "val_interval": 1}
        # Of voxels of 4 x 4 x 10 mm the tiny scans would have a handful.
        replaced |= {"spacing": None}
        # The tiny scans are no DICOM series, for which test_dicom_output has its own run.
        replaced |= {"output_format": "nifti"}
        # Of four cases, four folds leave two to train on; what is compared are the weights and figures of these tests.
        replaced |= {"num_folds": 4, "processes": 1, "percentages": [1.0], "fold_dirs": [str(tmp_path / "out")]}
        replaced |= {"num_labeled_patients": 1}
        replaced |= {"baseline_file": trained.output / "baseline" / "model.pt"}
        # Comparisons of methods take every share of labels with every seed, co-training a batch of labeled cases.
        replaced |= {"seeds": [0], "labeled_fractions": [0.5], "batch_size": 2}
        settings = {key: replaced.get(key, value) for key, value in options.items()}
        # Without data a command makes phantoms, many for judging; other tests run that.
        settings |= {"dataset_dir": dataset, "output_dir": tmp_path / "out", "model_dir": trained.models}
        # A checkpoint to resume from would be that of the user's own run.
        settings |= {key: value for key, value in {"max_epochs": 1, "resume": False}.items() if key in options}
        if "learning_curve.json" in names:
            settings |= {"num_folds": 4, "counts": [0, 1], "max_epochs": 1, "val_interval": 1, "samples_per_epoch": 4}
        if "experiment.json" in names:
            settings |= {"num_folds": 4, "seeds": [0], "variants": {"all": {"ood_fraction": 1.0}}}
            settings |= {"samples_per_epoch": 4}
        run_config(bundle, names, run_id, **settings)
        used |= {*names, comparison}
    assert "@" not in re.sub(r"`.*?`", "", readme), "a placeholder was left"
    assert used >= {"train.json", "inference.json", "evaluate.json"}


def _refers(value):
    """Whether a value of a config is an object, or made of others."""
    return isinstance(value, dict) or any(str(item)[:1] in ("$", "@", "{") for item in _as_list(value))


def _as_list(value):
    return list(value) if isinstance(value, list | tuple) else [value]
