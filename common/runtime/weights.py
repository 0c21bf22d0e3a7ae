"""Writes and loads network weights: tensors only, complete or absent, with clear words where they do not fit."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.handlers import CheckpointLoader
from torch import nn

from ..errors import MissingDataError, WeightsError, one_line
from .distributed import unwrap
from .files import write_atomically

LANDMARKS_FILE = "intensity_landmarks.json"
"""Name of the file, beside the weights, of the scale that intensities are aligned to."""


def save_atomically(
    content: Mapping[str, Any], path: str | Path, *, announce: Callable[[], None] | None = None
) -> None:
    """Writes a state dictionary so that a reader finds the old file or the whole new one.

    The same content gives the same bytes, under whatever name and whoever writes it.

    Args:
        content: Tensors by name, or, in a checkpoint, also plain values.
        path: Path that the file shall have.
        announce: Function called when the file is complete, before it appears, see :func:`write_atomically`. Nothing is
            called by default.

    Raises:
        OutputError: When it cannot be written.
    """
    # Torch calls the records in a file after its name, and that of a temporary file is another every time.
    with write_atomically(path, announce=announce) as temporary, open(temporary, "wb") as file:
        try:
            torch.save({name: _in_rows(value) for name, value in content.items()}, file)
        except RuntimeError as error:  # torch's writer reports a full disk so
            raise OSError(str(error)) from error


def _in_rows(value: Any) -> Any:
    """A tensor in rows: files of weights are the same however a network lays them out while it runs."""
    return value.contiguous() if isinstance(value, torch.Tensor) else value


def read_checkpoint(path: str | Path, *, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Returns what a file written by :func:`save_atomically` holds, unpickling tensors and plain values only.

    Raises:
        MissingDataError: When there is no such file.
        WeightsError: When it is truncated or holds something else.
    """
    if not Path(path).is_file():
        below = Path(path).parent / "models" / Path(path).name
        there = f", such as {below.parent}" if below.is_file() else ""
        raise MissingDataError(
            f"no weights at {path}; train first, or set model_dir to the folder that holds model.pt{there}"
        )
    try:
        with warnings.catch_warnings():
            # What torch warns of here, other formats and protocols, is refused below.
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location=device, weights_only=True)
    except _UNREADABLE as error:
        # Not chained: torch advises to load such a file in a way that runs what is in it.
        raise WeightsError(
            f"{path} cannot be read as weights ({_reason(error)}); copy it again or train anew"
        ) from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds {type(content).__name__}, expected a state dictionary; train anew")
    return content


_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError,
    AssertionError, OverflowError,
)  # fmt: skip
"""What torch raises for damaged and foreign files."""


def _reason(error: BaseException) -> str:
    """Why a file cannot be read, in words of ours where torch's are advice or a riddle."""
    text = one_line((str(error).splitlines() or [""])[0])
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in text:
        return "it is damaged, or holds more than tensors and plain values, which might run code and is never loaded"
    # These tell of the file system, of the device and of missing parts.
    return text if isinstance(error, RuntimeError | OSError) and text else "it is truncated or damaged"


def load_weights(network: nn.Module, path: str | Path, *, device: str | torch.device = "cpu") -> None:
    """Loads ``path`` into ``network``, every tensor or none.

    Raises:
        MissingDataError: When there is no such file.
        WeightsError: When it is unreadable or belongs to another network.
    """
    load_state(network, read_checkpoint(path, device=device), path)


def load_state(network: nn.Module, state: Mapping[str, Any], path: str | Path) -> None:
    """Loads a state dictionary into ``network``, every tensor or none.

    Args:
        network: Network that receives the weights.
        state: Weights by name.
        path: File that they come from, for the message.

    Raises:
        WeightsError: When they belong to another network.
    """
    target = unwrap(network)
    own = target.state_dict()
    mismatched = [name for name in state if name not in own] + [name for name in own if name not in state]
    mismatched += [name for name in state if name in own and getattr(state[name], "shape", None) != own[name].shape]
    if mismatched:
        raise WeightsError(
            f"{path} belongs to another network: {len(mismatched)} tensor(s) differ, the first is {mismatched[0]!r}; "
            "use the network_def it was trained with, or train anew"
        )
    target.load_state_dict(state)


class WeightsCheckpointLoader(CheckpointLoader):
    """MONAI's ``CheckpointLoader`` for one network, with one clear line when the weights do not fit.

    Args:
        path: Path of the weights.
        network: Network that the weights are loaded into.
        device: Device that tensors are read to; the CPU by default.
    """

    def __init__(self, path: str, network: nn.Module, device: str | torch.device = "cpu") -> None:
        super().__init__(load_path=path, load_dict={"model": network}, map_location=device)
        self.path, self.network, self.device = path, network, device

    def __call__(self, engine: Any) -> None:
        """Loads the weights; ``engine`` is not touched."""
        load_weights(self.network, self.path, device=self.device)
