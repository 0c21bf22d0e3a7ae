"""What the pages of every bundle promise: few words first, options that exist, and commands that run."""

import itertools
import json
import re
import shlex
import shutil

import pytest
from fire.parser import DefaultParseValue

from common.runtime.knobs import GLOSSARY, PAGE, knobs_page, read_configs, read_glossary

SECTIONS = ("not for clinical use", "citation", "when it fails", "monai label", "offline")


EXPERIMENT = "experiment.json"
"""What takes many trainings, whatever is laid over it; a test of each bundle runs it."""

OWN_MEANING = {
    "batch_size",
    "ema_decay",
    "iterations",
    "labeled_fraction",
    "max_epochs",
    "norm",
    "normalization",
    "offset",
    "out_channels",
    "pretrain_epochs",
    "roi_size",
}
"""Options that a method gives a closer meaning."""


PAGES = ("README.md", "guide.md", "results.md")
"""Pages of a bundle that are written by hand; what one promises may be told on another."""

LONGEST = 1000
"""Words of the first page."""


@pytest.fixture
def readme(bundle):
    return (bundle / "docs" / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def pages(bundle):
    return "\n".join((bundle / "docs" / name).read_text(encoding="utf-8") for name in PAGES)


def test_first_page_is_short(readme):
    assert len(readme.split()) <= LONGEST


def test_page_of_the_collection_is_short(repository):
    assert len((repository / "README.md").read_text(encoding="utf-8").split()) <= LONGEST


def test_first_page_leads_to_the_others(readme):
    assert {"guide.md", "results.md", "knobs.md"} <= set(re.findall(r"\]\((\w+\.md)", readme))
    assert len(re.findall(r"\]\(\w+\.png\)|src=\"\w+\.png\"", readme)) == 1, "one picture"


def test_first_page_has_three_commands(readme):
    runs = [arguments for arguments in map(bundle_arguments, bash_commands(readme)) if arguments]
    assert [re.search(r"configs/(\w+)\.json", " ".join(run)).group(1) for run in runs] == [
        "train",
        "evaluate",
        "inference",
    ]


def bash_commands(text):
    """The lines of fenced bash blocks, continued lines joined, and commands inside the text."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")] + re.findall(r"`([^`\n]* -m [^`\n]*)`", text)


def bundle_arguments(command):
    """Arguments of ``monai.bundle`` in a command line, empty for other commands."""
    words = shlex.split(command)
    return words[words.index("monai.bundle") + 1 :] if "monai.bundle" in words else []


def test_pages_name_the_archive_of_this_version(pages, bundle, repository):
    version = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"]
    names = ("README.md", "docs/hospital.md", "common/label_app/README.md")
    shared = [repository / name for name in names]
    texts = [pages, *(page.read_text(encoding="utf-8") for page in shared)]
    named = [number for text in texts for number in re.findall(rf"{bundle.name}_v(\d+\.\d+\.\d+)\.zip", text)]
    assert set(named) == {version}


@pytest.mark.parametrize("words", SECTIONS)
def test_readme_covers(readme, words):
    assert words in readme.lower()


def test_knobs_page_equals_what_the_configs_say(bundle):
    page = (bundle / PAGE).read_text(encoding="utf-8")
    assert page == knobs_page(bundle), "write it again by: python -m common knobs"


def test_every_option_that_users_rely_on_has_words(overridable, bundle):
    assert not [key for key in overridable if key not in read_glossary(bundle)]


def test_every_text_of_the_glossary_is_of_a_setting(all_bundles):
    """A text for one bundle is of a setting that it has, and says something else than that of the others."""
    keys = {folder.name: {key for config in read_configs(folder).values() for key in config} for folder in all_bundles}
    texts = json.loads((all_bundles[0].parent / GLOSSARY).read_text(encoding="utf-8"))
    assert not [key for key in texts if not any(key in own for own in keys.values())]
    for key, own in texts.items():
        if isinstance(own, dict):
            assert key in OWN_MEANING
            assert all(name == "all" or key in keys[name] for name in own)
            assert len(set(own.values())) == len(own)


def test_every_option_of_a_command_exists(pages, bundle, bundle_importable, monkeypatch):
    monkeypatch.chdir(bundle)
    commands = [arguments for arguments in map(bundle_arguments, bash_commands(pages)) if arguments]
    with bundle_importable(bundle):
        from scripts.common.runtime.options import check_options

        for arguments in commands:
            check_options(arguments)


def classes_of(options, bundle):
    """What a command says of ``out_channels`` by itself, or in the overlays of an experiment."""
    named = [options.get("--out_channels"), options.get("--settings#out_channels")]
    for name in _as_list(DefaultParseValue(options.get("--config_file", ""))):
        path = bundle / str(name)
        laid = json.loads(path.read_text(encoding="utf-8")) if path.name.startswith("experiment_") else {}
        named.append(laid.get("settings#out_channels"))
    return next((str(each) for each in named if each is not None), None)


def test_commands_on_the_same_data_or_weights_name_the_same_classes(pages, bundle):
    found = {}
    for arguments in filter(None, map(bundle_arguments, bash_commands(pages))):
        options = dict(itertools.pairwise(arguments))
        if re.search("evaluate|inference|as_trained", options.get("--config_file", "")):
            continue  # the weights tell
        for key in {"--dataset_dir", "--model_dir"} & options.keys():
            found.setdefault((key, options[key]), set()).add(classes_of(options, bundle))
    assert found
    assert not {place: classes for place, classes in found.items() if len(classes) > 1}


def commands_to_run(text):
    """Run, configs and options of the commands of a page: of those of the same run, the one with the most options."""
    found = {}
    for arguments in filter(None, map(bundle_arguments, bash_commands(text))):
        values = dict(itertools.pairwise(arguments))
        options = {key[2:]: DefaultParseValue(value) for key, value in values.items() if key.startswith("--")}
        names = [re.sub(r".*configs/", "", name) for name in _as_list(options.pop("config_file", ()))]
        run_id = "run" if arguments[1].startswith("--") else arguments[1]
        if arguments[0] == "run" and not {"multi_gpu_train.json", EXPERIMENT} & set(names):
            found.setdefault((run_id, *names), []).append(options)
    return [(run_id, names, max(found[run_id, *names], key=len)) for run_id, *names in found]


def test_every_kind_of_command_runs(pages, bundle, dataset, trained, run_config, monkeypatch, tmp_path):
    """In one process and with tiny settings; what it reads and writes is replaced."""
    monkeypatch.chdir(bundle)
    # One size and number of classes for all, since the weights and bank of one command are the next one's.
    left_out = {"roi_size", "out_channels"}
    # Of voxels of 4 x 4 x 10 mm the tiny scans would have a handful, and they are no DICOM series.
    replaced = {"spacing": None, "output_format": "nifti", "dataset_dir": dataset, "ood_dir": dataset, "damages": []}
    replaced |= {
        "exposure_dir": dataset,
        "initial_weights": None,
        "foreground_labels": None,
        "samples_per_epoch": 2,
        "iterations": None,
        "val_interval": 1,
    }
    # A checkpoint to resume from would be that of the user's own run.
    replaced |= {"split_file": None, "resume": False, "max_epochs": 1, "batch_size": 2, "num_labeled_patients": 1}
    # Of four cases, four folds leave two to train on.
    replaced |= {"num_folds": 4}
    replaced |= {"baseline_file": trained.output / "baseline" / "model.pt"}
    folders = {}
    commands = commands_to_run(pages)
    for run_id, names, options in commands:
        settings = {key: replaced.get(key, value) for key, value in options.items() if key not in left_out}
        # Without data a command makes phantoms, many for judging; other tests run that.
        settings |= {"dataset_dir": dataset, "output_dir": tmp_path / "out"}
        # Weights of one folder are those of one network.
        place = options.get("model_dir")
        if place not in folders:
            folders[place] = shutil.copytree(trained.models, tmp_path / f"models_{len(folders)}")
        settings["model_dir"] = folders[place]
        if "train.json" in names and "as_trained.json" not in names:
            # Too few for a covariance.
            settings["distance"] = "nearest"
        if "detectors.json" in names:
            # Every damage would be judged by every detector.
            settings["damages"] = []
        run_config(bundle, names, run_id, **settings)
    assert {name for _, names, _ in commands for name in names} >= {"train.json", "inference.json", "evaluate.json"}
    assert "@" not in re.sub(r"`.*?`", "", pages), "a placeholder was left"


def _as_list(value):
    return list(value) if isinstance(value, list | tuple) else [value]
