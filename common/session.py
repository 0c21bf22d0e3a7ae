"""What a run on the command line starts with: determinism, readable errors, checked options, process groups."""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from monai.bundle import ConfigParser
from monai.utils import set_determinism
from torch import nn

from .errors import ConfigError, one_line
from .interrupts import Interrupted, watch_signals
from .reasons import find_bundle_error

logger = logging.getLogger(__name__)

RUNNER_OPTIONS = frozenset(
    {
        "args_file",
        "config_file",
        "experiment_name",
        "final_id",
        "init_id",
        "logging_file",
        "meta_file",
        "run_id",
        "run_name",
        "tracking",
        "tracking_uri",
        "workflow_name",
        "workflow_type",
    }
)
"""Options of ``python -m monai.bundle run`` itself."""


def start_session(seed: int, *, distributed: bool = False, device: str | torch.device = "cpu") -> None:
    """Makes a run reproducible, its errors readable and its options checked.

    Args:
        seed: of every random number generator.
        distributed: whether to join the process group that ``torchrun`` describes.
        device: of this process, which decides how processes talk to one another.

    Raises:
        ConfigError: when the command line sets a key that no config file has.
    """
    sys.excepthook = report_error
    watch_signals()
    check_options(sys.argv[1:])
    if distributed and not dist.is_initialized():
        if is_cuda(device):
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if is_cuda(device) and dist.is_nccl_available() else "gloo")
        if not is_main_process():
            logging.getLogger().setLevel(logging.WARNING)
    set_determinism(seed=seed)


def end_session() -> None:
    """Leaves the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def local_device() -> torch.device:
    """Returns the GPU of this process under ``torchrun``, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def distribute(
    network: nn.Module, device: str | torch.device, *, find_unused_parameters: bool = False
) -> nn.parallel.DistributedDataParallel:
    """Returns the network on this process's device, its gradients averaged over all processes.

    Args:
        network: the network.
        device: of this process.
        find_unused_parameters: whether steps may leave out parts of the network, see torch.
    """
    place = torch.device(device)
    devices = [place] if is_cuda(place) else None
    return nn.parallel.DistributedDataParallel(
        network.to(place), device_ids=devices, find_unused_parameters=find_unused_parameters
    )


def is_cuda(device: str | torch.device) -> bool:
    """Returns whether a device, given as such or by name, is a GPU."""
    return torch.device(device).type == "cuda"


def process_rank() -> int:
    """Returns this process's rank, 0 without distributed training."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Returns the number of processes, 1 without distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main_process() -> bool:
    """Returns whether this process is the one that writes."""
    return process_rank() == 0


def wait_for_all() -> None:
    """Returns when every process has come here, so that what the main process wrote before can be read by all."""
    if world_size() > 1:
        dist.barrier()


def sum_over_processes(value: torch.Tensor) -> torch.Tensor:
    """Returns the sum of a value over all processes, the same on each."""
    if world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total


def report_error(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Prints one line for an error of ours or an interruption, and the whole traceback for any other.

    The exit status is 1, after Ctrl-C 130 and after SIGTERM 143. With the environment variable ``BUNDLE_TRACEBACK``
    set, the traceback is printed for every error.

    Raises:
        SystemExit: After an interruption, whose exit status Python would not know.
    """
    if isinstance(error, Interrupted):
        if is_main_process():
            sys.stderr.write(f"{one_line(str(error))}\n")
        raise SystemExit(error.status)
    own = find_bundle_error(error)
    if own is None or os.environ.get("BUNDLE_TRACEBACK"):
        sys.__excepthook__(kind, error, traceback)
    else:
        sys.stderr.write(f"error: {one_line(str(own))}\n")


READ_AS_TEXT = ("pretrained",)
"""Flags whose component understands them as a text too, see :func:`read_flag`."""


def read_flag(value: bool | str, name: str) -> bool:
    """Returns what a flag means that a command line may have given as a text, such as ``false``.

    Args:
        value: the flag; of a text, case does not matter.
        name: of the flag, for the error.

    Raises:
        ConfigError: when the text is neither ``true`` nor ``false``.

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
        arguments: of the command line, without the program. Anything but ``monai.bundle run`` passes.

    Raises:
        ConfigError: naming the unknown key and the most similar one that exists, or the flag.
    """
    options = {argument[2:].split("=", 1)[0]: index for index, argument in enumerate(arguments) if argument[:2] == "--"}
    if "run" not in arguments[:1] or "config_file" not in options:
        return
    config = _read_configs(arguments, options["config_file"])
    for option, index in options.items():
        text = _value(arguments, index)
        wrong = isinstance(config.get(option), bool) and text.lower() in ("false", "no", "off") and text != "False"
        if wrong and option not in READ_AS_TEXT:
            raise ConfigError(f"--{option} {text} is a text, which would count as true; write --{option} False")
        if option in RUNNER_OPTIONS or has_option(config, option):
            continue
        near = difflib.get_close_matches(option, [str(key) for key in config], n=1)
        hint = f"; did you mean --{near[0]}?" if near else ""
        raise ConfigError(f"unknown option --{option}: no such key in the config files{hint}")


def _value(arguments: Sequence[str], index: int) -> str:
    """The text that the option at this place is set to; empty without."""
    return arguments[index].partition("=")[2] or "".join(arguments[index + 1 : index + 2])


def _read_configs(arguments: Sequence[str], index: int) -> dict[str, Any]:
    """All config files of the command line, laid over one another."""
    text = _value(arguments, index)
    files = [part.strip(" '\"") for part in text.strip("[]").split(",")]
    config: dict[str, Any] = {}
    for file in files:
        # Keys of nested overlays, such as train#x, exist in the file they are laid over.
        config |= ConfigParser.load_config_file(file)
    return config


def has_option(config: Any, option: str) -> bool:
    """Returns whether a config has the (nested) key, or a component that may take a further argument of that name."""
    key = option.lstrip("+").replace("::", "#")
    if key in config:
        # Overlays name nested keys as a whole.
        return True
    for part in key.split("#"):
        if isinstance(config, list):
            if not part.isdigit() or int(part) >= len(config):
                return False
            config = config[int(part)]
        elif isinstance(config, dict) and part in config:
            config = config[part]
        else:
            # Components take optional arguments that their config does not spell out, and _disabled_ and the like.
            return isinstance(config, dict) and ("_target_" in config or part.startswith("_"))
    return True
