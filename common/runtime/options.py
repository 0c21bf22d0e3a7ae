"""Checks the options of the command line, which MONAI passes on unchecked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from monai.bundle import ConfigParser

from ..errors import ConfigError
from .knobs import WORDS
from .model_settings import with_defaults
from .nearest import did_you_mean

TRACKING = frozenset({"experiment_name", "run_name", "tracking", "tracking_uri"})
"""Options of MONAI's runner on the tracking of experiments."""

RUNNER_OPTIONS = TRACKING | {
    "args_file",
    "config_file",
    "final_id",
    "init_id",
    "logging_file",
    "meta_file",
    "run_id",
    "workflow_name",
    "workflow_type",
}
"""Options of ``python -m monai.bundle run`` itself."""


OPEN = ("arms", "datasets", "settings")
"""Keys of an experiment that hold options of other configs, which it checks itself."""


READ_AS_TEXT = ("planned", "pretrained")
"""Flags whose component understands them as a text too, see :func:`read_flag`."""


def read_flag(value: bool | str, name: str) -> bool:
    """Returns what a flag means that a command line may have given as a text, such as ``false``.

    Args:
        value: Value of the flag; of a text, case does not matter.
        name: Name of the flag, for the error.

    Raises:
        ConfigError: When the text is neither ``true`` nor ``false``.

    Example:
        >>> read_flag("false", "pretrained"), read_flag(True, "pretrained")
        (False, True)
    """
    if isinstance(value, bool):
        return value
    if value.lower() not in ("true", "false"):
        raise ConfigError(f"{name} is {value!r}; accepted are true and false")
    return value.lower() == "true"


def check_options(arguments: Sequence[str]) -> None:
    """Makes sure that every ``--key`` of ``monai.bundle run`` exists in its config files; MONAI lets others pass.

    The same for the value of a flag: MONAI takes ``false``, unlike ``False``, for a text, which would count as true.

    Args:
        arguments: Arguments of the command line, without the program. Anything but ``monai.bundle run`` passes.

    Raises:
        ConfigError: Naming the unknown key and the most similar one that exists, or the flag.
    """
    options = {argument[2:].split("=", 1)[0]: index for index, argument in enumerate(arguments) if argument[:2] == "--"}
    if "run" not in arguments[:1] or "config_file" not in options:
        return
    if "tracking" in options:
        check_tracking(_value(arguments, options["tracking"]))
    config = _read_configs(arguments, options["config_file"])
    for option, index in options.items():
        check_option(config, option, _value(arguments, index), accepted=RUNNER_OPTIONS)


def check_tracking(tracking: str | None) -> None:
    """Makes sure that what tracks experiments is installed.

    Args:
        tracking: Value of ``--tracking``, ``None`` without.

    Raises:
        ConfigError: When it is MLflow, which is not installed.
    """
    if tracking == "mlflow" and find_spec("mlflow") is None:
        raise ConfigError("--tracking mlflow needs the package mlflow, which is not installed: pip install mlflow")


def check_option(config: Mapping[str, Any], option: str, value: Any, *, accepted: Collection[str] = ()) -> None:
    """Makes sure that a config has an option, and that the value of a flag is one.

    Args:
        config: Config that the option is for, all its files laid over one another.
        option: Name of the option, without dashes.
        value: Value that it is given.
        accepted: Names of further options that are accepted. Default none.

    Raises:
        ConfigError: Naming the unknown option and the most similar ones that exist, or the flag.
    """
    wrong = isinstance(config.get(option), bool) and str(value).lower() in ("false", "no", "off")
    if wrong and str(value) != "False" and option not in READ_AS_TEXT:
        raise ConfigError(f"--{option} {value} is a text, which would count as true; write --{option} False")
    if option in accepted or has_option(config, option):
        return
    hint = did_you_mean(option, [*(str(key) for key in config if key != WORDS), *accepted], before="--")
    raise ConfigError(f"unknown option --{option}: no such key in the config files{hint}")


def _value(arguments: Sequence[str], index: int) -> str:
    """The text that the option at this place is set to; empty without."""
    return arguments[index].partition("=")[2] or "".join(arguments[index + 1 : index + 2])


def _read_configs(arguments: Sequence[str], index: int) -> dict[str, Any]:
    """All config files of the command line, laid over one another."""
    text = _value(arguments, index)
    return read_laid([part.strip(" '\"") for part in text.strip("[]").split(",")])


def read_laid(files: Sequence[str]) -> dict[str, Any]:
    """Returns the content of config files, laid over one another, with the values of weights without settings.

    Args:
        files: Paths of the files, the last one above the others.
    """
    config: dict[str, Any] = {}
    for file in files:
        # Keys of nested overlays, such as train#x, exist in the file they are laid over.
        config |= with_defaults(ConfigParser.load_config_file(file))
    return config


def has_option(config: Any, option: str) -> bool:
    """Returns whether a config has the (nested) key, or a component that may take a further argument of that name."""
    key = option.lstrip("+").replace("::", "#")
    if WORDS in key.split("#"):
        return False
    if key in config:
        # Overlays name nested keys as a whole.
        return True
    if key.split("#")[0] in OPEN and isinstance(config.get(key.split("#")[0]), dict):
        return True
    for part in key.split("#"):
        if isinstance(config, list):
            if not part.isdigit() or int(part) >= len(config):
                return False
            config = config[int(part)]
        elif isinstance(config, dict) and part in config:
            config = config[part]
        else:
            # Components take optional arguments that their config does not spell out, and _disabled_.
            return isinstance(config, dict) and ("_target_" in config or part.startswith("_"))
    return True
