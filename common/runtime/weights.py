"""Network weights on disk: tensors only, complete or absent, and clear words when they do not fit."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.handlers import CheckpointLoader
from torch import nn

from ..errors import MissingDataError, WeightsError
from .distributed import unwrap
from .files import write_atomically


def save_atomically(content: Mapping[str, Any], path: str | Path) -> None:
    """Writes a state dictionary so that a reader finds the old file or the whole new one.

    Raises:
        OutputError: when it cannot be written.
    """
    with write_atomically(path) as temporary:
        try:
            torch.save(dict(content), temporary)
        except RuntimeError as error:  # torch's writer reports a full disk so
            raise OSError(str(error)) from error


def read_checkpoint(path: str | Path, *, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Returns what a file written by :func:`save_atomically` holds, unpickling tensors and plain values only.

    Raises:
        MissingDataError: when there is no such file.
        WeightsError: when it is truncated or holds something else.
    """
    if not Path(path).is_file():
        raise MissingDataError(f"no weights at {path}; train first, or set model_dir to the folder that holds model.pt")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else "unexpected end"
        raise WeightsError(f"{path} cannot be read as weights ({reason}); copy it again or train anew") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds {type(content).__name__}, expected a state dictionary; train anew")
    return content


def load_weights(network: nn.Module, path: str | Path, *, device: str | torch.device = "cpu") -> None:
    """Loads ``path`` into ``network``, every tensor or none.

    Raises:
        MissingDataError: when there is no such file.
        WeightsError: when it is unreadable or belongs to another network.
    """
    state, target = read_checkpoint(path, device=device), unwrap(network)
    own = target.state_dict()
    strange = [name for name in state if name not in own] + [name for name in own if name not in state]
    strange += [name for name in state if name in own and getattr(state[name], "shape", None) != own[name].shape]
    if strange:
        raise WeightsError(
            f"{path} belongs to another network: {len(strange)} tensor(s) differ, the first is {strange[0]!r}; "
            "use the network_def it was trained with, or train anew"
        )
    target.load_state_dict(state)


class WeightsCheckpointLoader(CheckpointLoader):
    """MONAI's ``CheckpointLoader`` for one network, with one clear line when the weights do not fit.

    Args:
        path: the weights.
        network: what they are loaded into.
        device: where tensors are read to.
    """

    def __init__(self, path: str, network: nn.Module, device: str | torch.device = "cpu") -> None:
        super().__init__(load_path=path, load_dict={"model": network}, map_location=device)
        self.path, self.network, self.device = path, network, device

    def __call__(self, engine: Any) -> None:
        """Loads the weights; ``engine`` is not touched."""
        load_weights(self.network, self.path, device=self.device)
