"""One word from the command line down to the formula: an argument that a setting fills bears the setting's name."""

import json

import pytest

from common.runtime.knobs import plain_keys
from common.runtime.model_settings import with_defaults

OTHER_NAMES = {
    "num_classes": "a label has classes where a network has channels; MONAI's name, filled by out_channels",
    "make_class_weight.name": "one function makes the weights of both networks",
    "Trainer.max_epochs": "MONAI's name; the pre-training has a length of its own",
    "make_optimizer.learning_rate": "the pre-training has a rate of its own",
    "samples_of_epoch.iterations": "the pre-training has steps of its own",
    "samples_of_epoch.max_epochs": "the pre-training has a length of its own",
    "replace_head.out_channels": "a denoiser gives the channels that it takes",
}
"""``argument`` or ``component.argument`` that bears a name of its own -> the reason."""


def components(config):
    """Every component of a config that is our code, at any depth."""
    if isinstance(config, dict):
        if str(config.get("_target_", "")).startswith("scripts.common."):
            yield config
        config = list(config.values())
    for value in config if isinstance(config, list) else ():
        yield from components(value)


def renamed(config, settings):
    """``component.argument``, ``argument`` and the setting that fills it under another name."""
    for part in components(config):
        for argument, value in part.items():
            if isinstance(value, str) and value.startswith("@") and value[1:] in settings and value[1:] != argument:
                yield f"{part['_target_'].split('.')[-1]}.{argument}", argument, value[1:]


def is_text(value):
    """Whether a setting follows from another or is put together; a component is made by a call."""
    return isinstance(value, str) and "(" not in value


def own_settings(configs, name):
    """Settings that a config, or the one below an overlay, has at its top level; those of others follow from them."""
    below = {} if name in ("train", "inference", "evaluate") else configs["train"] | configs["evaluate"]
    content = below | configs[name]
    return {key for key in content if key in plain_keys(content) or is_text(content[key])}


def test_an_argument_bears_the_name_of_the_setting_that_fills_it(configs):
    found = [
        (name, *what)
        for name in configs
        if name != "metadata"
        for what in renamed(configs[name], own_settings(configs, name))
    ]
    assert not [item for item in found if item[1] not in OTHER_NAMES and item[2] not in OTHER_NAMES]


def test_exceptions_are_needed(all_bundles):
    used = set()
    for bundle in all_bundles:
        files = (bundle / "configs").glob("*.json")
        configs = {file.stem: with_defaults(json.loads(file.read_text(encoding="utf-8"))) for file in files}
        for name in configs.keys() - {"metadata"}:
            used |= {what for item in renamed(configs[name], own_settings(configs, name)) for what in item[:2]}
    assert not [name for name in OTHER_NAMES if name not in used]


@pytest.mark.parametrize(("argument", "expected"), [("sd", ["Noise.sd"]), ("noise_sd", [])])
def test_another_name_is_found(argument, expected):
    config = {"noise_sd": 0.1, "a": [{"b": {"_target_": "scripts.common.x.Noise", argument: "@noise_sd"}}]}
    assert [item[0] for item in renamed(config, {"noise_sd"})] == expected
