"""Lets a training go by a plan made from its data, where the user has not decided otherwise."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ..errors import ConfigError
from ..runtime.config_source import items_being_resolved
from ..runtime.model_settings import NETWORK, PLAN, with_defaults
from ..runtime.networks_by_name import TrainedNetwork
from ..runtime.options import read_flag
from ..runtime.training_end import MINUTES
from .choices import LABELS
from .command import write_plan
from .settling import EPOCHS, REQUEST, Request

logger = logging.getLogger(__name__)

OWN_DATA = "$@split.part('train')"
"""How ``train.json`` names its training data; anything else was set from outside."""

_OPEN = re.compile(r"\$@planner\.\w+\(")


class TrainingPlanner:
    """Settings of a training as its data suggest them: what a user sets takes the place of the call that asks here.

    There is a plan where a data set is given and nothing but the data decides: not for phantoms, for lists of cases
    that are set from outside (MONAI Label, federated clients), nor for a training that starts from given weights. A
    plan that lies in the folder of the results, made for the same request, holds again.

    Args:
        dataset_dir: Folder in the layout of the Medical Segmentation Decathlon, or a list of them; ``None`` for
            phantoms.
        output_dir: Folder of the results, which ``plan.json`` is written to.
        bundle_root: Folder of the bundle.
        device: Device of the training, whose memory and speed count.
        planned: Whether settings are chosen from the data. Default true.
        minutes: Time of the training on this machine, in minutes, above 0. Default 20.
        resume: Whether a training goes on, by the plan in its folder if there is one. Default false.
        initial_weights: Weights that the training starts from, with which the settings of the config hold. Default
            none.
        config: What the config parser has made of every id so far, as the expression ``$__local_refs`` gives it.
            Default none.
    """

    def __init__(
        self,
        dataset_dir: str | Sequence[str] | None,
        output_dir: str,
        bundle_root: str,
        device: str | torch.device,
        *,
        planned: bool | str = True,
        minutes: float = MINUTES,
        resume: bool = False,
        initial_weights: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.dataset_dir, self.root, self.device = dataset_dir, Path(bundle_root), torch.device(device)
        self.path, self.resume = Path(output_dir, f"{PLAN}.json"), resume
        self.minutes = minutes
        self._wanted = bool(dataset_dir) and read_flag(planned, "planned") and initial_weights is None
        self._items = items_being_resolved(config)
        # What the plan lays over train.json.
        self.content: dict[str, Any] = {}

    def run(self) -> None:
        """Makes the plan, where there is one to be made.

        A workflow that trains begins with this. What others ask for, such as the fitting of a bank, the properties of a
        workflow, or a federated client, which must have the network of the others, is what the config says.

        Raises:
            BundleError: What planning raises, see :func:`~.command.write_plan`.
        """
        config = self._config
        if not self._wanted or self.dataset_dir is None or _data(config) != OWN_DATA:
            return
        if self.resume and not self.path.is_file():
            return
        request = Request(self.dataset_dir, self.root, with_defaults(config), self.minutes, self._given(), self.device)
        before = _read_plan(self.path) if self.path.is_file() else {}
        if self.resume or before.get(REQUEST) == request.digest():
            # Another time of this machine would give another number of steps, and undo the stages that are done.
            logger.info("settings planned before, in %s", self.path)
            self.content = before
            return
        logger.info("settings planned from the data; --planned False takes those of train.json")
        self.content = write_plan(self.path, request)

    @property
    def _config(self) -> dict[str, Any]:
        """The config as its files and the command line have it; empty where it is not known."""
        return dict(self._items[""].get_config()) if "" in self._items else {}

    def _given(self) -> dict[str, Any]:
        """What overlays and the command line have decided, among that which a plan is asked for."""
        config, file = self._config, self.root / "configs" / "train.json"
        own = ConfigParser.load_config_file(file)
        asked = [key for key, value in own.items() if isinstance(value, str) and _OPEN.match(value)]
        asked += [name for name in (*EPOCHS, LABELS) if name not in asked]
        parser = ConfigParser(with_defaults(config))
        given = {
            name: parser.get_parsed_content(name) for name in asked if name in config and config[name] != own[name]
        }
        if _normal(config[NETWORK]) != _normal(own[NETWORK]):
            given[NETWORK] = str(with_defaults(config[NETWORK])["_target_"]).rsplit(".", 1)[-1]
        return given

    def get(self, name: str, default: Any) -> Any:
        """Returns a setting of the plan.

        Args:
            name: Name of the setting; nested ones are joined by ``#``.
            default: Value where the plan does not have it.
        """
        value: Any = self.content
        # MONAI's parser writes a::b for a#b.
        for part in name.replace("::", "#").split("#"):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return value

    def network(self, target: str) -> str | TrainedNetwork:
        """Returns what builds the network of the plan, for ``_target_`` of a network's block.

        Args:
            target: Name of the network where the plan does not have another.
        """
        planned = self.content.get(NETWORK)
        if planned is None:
            return target
        settled = ConfigParser(with_defaults(self._config) | self.content)
        kept = {
            name: settled.get_parsed_content(value[1:]) if isinstance(value, str) and value.startswith("@") else value
            for name, value in planned.items()
            if name != "_desc_"
        }
        return TrainedNetwork(kept, self.path)

    def rows(self) -> list[dict[str, Any]]:
        """Returns the choices of the plan with their reasons; none where there is no plan."""
        return list(self.content.get(PLAN, []))


def _data(config: Mapping[str, Any]) -> str:
    """What the training data are, as the config names them; empty where it has them not."""
    train = config.get("train")
    dataset = train.get("dataset") if isinstance(train, Mapping) else None
    data = dataset.get("data") if isinstance(dataset, Mapping) else None
    return data if isinstance(data, str) else ""


def _normal(block: Any) -> str:
    """A block as a text in which references are written alike."""
    return json.dumps(block, sort_keys=True).replace("::", "#")


def _read_plan(path: Path) -> dict[str, Any]:
    """The content of a plan that an earlier part of this training has written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); train anew, without --resume") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no plan; train anew, without --resume")
    return content
