"""Reads what makes an arm of an experiment: overlays, settings, and the words that say where it takes part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError

Arm = Sequence[str | Mapping[str, Any]]
"""What is laid over ``train.json``: names of overlay files, and settings, among them :data:`WORDS`."""

AXES = ("datasets", "labeled", "doses", "seeds", "folds")
"""Words of an arm that restrict the grid, each a list of places where it takes part."""

WORDS = (*AXES, "together", "chain", "fine_tuned")
"""All words of an arm; what else it sets are options of ``train.json``."""

TOGETHER = "together"
"""What stands for the data set of a run that trains on several, and the word of an arm that does."""


def overlays_of(arm: Arm) -> tuple[str, ...]:
    """Returns the names of the files that an arm lays over the configs."""
    return tuple(item for item in arm if isinstance(item, str))


def settings_of(arm: Arm) -> dict[str, Any]:
    """Returns the options of ``train.json`` that an arm sets."""
    return {key: value for key, value in _pairs(arm) if key not in WORDS}


def words_of(arm: Arm) -> dict[str, Any]:
    """Returns what an arm says to the experiment, by word."""
    return {key: value for key, value in _pairs(arm) if key in WORDS}


def _pairs(arm: Arm) -> list[tuple[str, Any]]:
    return [pair for item in arm if not isinstance(item, str) for pair in item.items()]


def check_words(name: str, arm: Arm, datasets: Sequence[str]) -> None:
    """Makes sure that an experiment can follow the words of an arm.

    Args:
        name: Name of the arm.
        arm: Arm that is checked.
        datasets: Names of the data sets of the experiment.

    Raises:
        ConfigError: When an axis is no list, or a data set is named that does not exist or takes no part.
    """
    words = words_of(arm)
    for word in (*AXES, "chain"):
        accepted = words.get(word, [])
        if isinstance(accepted, str) or not isinstance(accepted, Sequence):
            raise ConfigError(f"arm {name!r} has {word} {accepted!r}; accepted is a list of those it is run with")
    missing = [dataset for dataset in words.get("datasets", []) if dataset not in datasets]
    if missing and words.get(TOGETHER):
        raise ConfigError(f"arm {name!r} trains together on {missing[0]!r}; accepted are {', '.join(datasets)}")
    chain = words.get("chain", [])
    unknown = [dataset for dataset in chain if dataset not in datasets]
    if unknown or len(set(chain)) < len(chain):
        raise ConfigError(
            f"arm {name!r} has chain {chain!r}; accepted are data sets in order, each once: {', '.join(datasets)}"
        )
    if "chain" in words and {TOGETHER, "datasets"} & words.keys():
        raise ConfigError(f"arm {name!r} has a chain beside together or datasets; the chain names them, give it alone")


def datasets_of(arm: Arm, datasets: Sequence[str]) -> Sequence[str]:
    """Returns the data sets that an arm has runs on, which are one for an arm that trains on several together.

    Args:
        arm: Arm of the experiment.
        datasets: Names of the data sets of the experiment.
    """
    words = words_of(arm)
    if words.get(TOGETHER):
        return [TOGETHER]
    chosen: Sequence[str] = words.get("chain", words.get("datasets", datasets))
    return chosen


def takes_part(arm: Arm, place: Mapping[str, Any]) -> bool:
    """Returns whether an arm is run at a place of the grid.

    Args:
        arm: Arm of the experiment.
        place: Share of labels, dose, seed and fold, by axis.
    """
    words = words_of(arm)
    return all(value in words.get(axis, [value]) for axis, value in place.items())


def join_datasets(datasets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the settings of a run that trains on several data sets at once.

    Their folders make a list, and settings that hold a value for each data set, such as ``foreground_labels``, are put
    together. Rows tell the data set of a case by its folder, so that names must be those of the folders.

    Args:
        datasets: Settings of every data set by its name.

    Raises:
        ConfigError: When a data set is not called as its folder, or two want different values of a setting.
    """
    joined: dict[str, Any] = {"dataset_dir": [said.get("dataset_dir") for said in datasets.values()]}
    for name, said in datasets.items():
        folder = said.get("dataset_dir")
        if not isinstance(folder, str) or Path(folder).absolute().name != name:
            raise ConfigError(
                f"data set {name!r} has dataset_dir {folder!r}; where several are trained on together, accepted is one "
                "folder of the data set's name"
            )
        for key, value in said.items():
            if key == "dataset_dir":
                continue
            if isinstance(value, Mapping) and isinstance(joined.get(key, {}), Mapping):
                joined[key] = {**joined.get(key, {}), **value}
            elif joined.setdefault(key, value) != value:
                raise ConfigError(
                    f"data sets have {key} {joined[key]!r} and {value!r}; where they are trained on together, give one"
                )
    return joined
