"""Reads a network with its weights: from a bundle in MONAI's format, from TorchScript, or by its definition."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError, MissingDataError, WeightsError, one_line
from ..networks.probing import input_axes, is_scripted
from ..runtime.weights import load_state, read_checkpoint
from ..transforms import CaseLoading
from .config import SUFFIXES, NetworkConfig

logger = logging.getLogger(__name__)

WEIGHTS = ("model.pt", "model.ts")
"""Files of the weights, the first that there is."""

NESTED = ("model", "network", "state_dict")
"""Keys under which checkpoints keep the weights."""

Source = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class GivenNetwork:
    """A trained network, and what is known of how scans come to it.

    Args:
        network: Network with its weights, in evaluation mode, on its device.
        spatial_dims: Number of spatial axes, 2 or 3.
        in_channels: Number of channels of its input.
        inferer: Its own inferer, such as MONAI's ``SlidingWindowInferer``. ``None``, the default, where none is known.
        load_transforms: Transforms that load and check a scan.
        image_transforms: Transforms that prepare a scan after loading. Default none.
        sigmoid: Whether each channel of its logits is a class by itself. ``None``, the default, where nothing tells.
    """

    network: nn.Module
    spatial_dims: int
    in_channels: int
    inferer: Any = None
    load_transforms: Sequence[Any] = ()
    image_transforms: Sequence[Any] = ()
    sigmoid: bool | None = field(default=None)


def read_network(
    network: Source,
    *,
    model_dir: str | None = None,
    weights: str | None = None,
    config_file: str | None = None,
    in_channels: int | None = None,
    device: str | None = None,
) -> GivenNetwork:
    """Returns a network with its weights and the transforms that prepare scans for it.

    Args:
        network: Folder of a bundle, in whose ``configs/inference.json`` or ``.yaml`` the network is; or a TorchScript
            file; or the file or the text of a config or of the network's definition alone, with ``_target_``.
        model_dir: Folder of the bundle's weights, and of the settings that belong to them. ``None``, the default, for
            its own.
        weights: File of the weights, a state dictionary or TorchScript. ``None``, the default, for ``model.pt`` or
            ``model.ts`` of that folder.
        config_file: Config that tells preprocessing and inferer, and the network where ``network`` is a bundle.
            ``None``, the default, for the bundle's, or what MONAI has put into the TorchScript file.
        in_channels: Number of channels of the input. ``None``, the default, for that of ``metadata.json`` or of the
            first convolution.
        device: Device that the network runs on. ``None``, the default, for a GPU where there is one, else the CPU.

    Raises:
        ConfigError: When a config cannot be read or made into objects.
        MissingDataError: When a file is missing.
        WeightsError: When the weights are unreadable or belong to another network.
    """
    given = _as_definition(network)
    metadata: Mapping[str, Any] = {}
    if isinstance(given, Path) and given.is_dir():
        folder = given / "models" if model_dir is None else Path(model_dir)
        config = NetworkConfig(config_file or _bundle_config(given), given, model_dir=model_dir)
        metadata = _read_metadata(given / "configs" / "metadata.json")
        module = _load(config.make_network(), weights or _weights_in(folder))
    elif isinstance(given, Mapping) or given.suffix.lower() in SUFFIXES:
        config = NetworkConfig(given)
        if weights is None:
            raise MissingDataError("a network's definition has no weights; give their file as weights")
        module = _load(config.make_network(), weights)
        config = NetworkConfig(config_file) if config_file else config
    else:
        module, extra = read_torchscript(given)
        config = NetworkConfig(config_file or _json(extra.get("inference.json", b"")))
        metadata = _json(extra.get("metadata.json", b""))
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return _describe(module.to(place).eval(), config, metadata, in_channels)


def _describe(
    network: nn.Module, config: NetworkConfig, metadata: Mapping[str, Any], in_channels: int | None
) -> GivenNetwork:
    """The network with what its config and its weights tell of its input."""
    axes = input_axes(network.state_dict())
    inferer = config.make("inferer") if config.has("inferer") else None
    size = getattr(inferer, "roi_size", None)
    channels = in_channels or _listed_channels(metadata) or (axes[0] if axes else None)
    dims = len(size) if isinstance(size, Sequence) else axes[1] if axes else 3
    if channels is None:
        raise ConfigError("nothing tells how many channels the network takes; set in_channels")
    parts = config.make_parts()
    if parts is None:
        reads, transforms = config.make_transforms()
        load = CaseLoading(dims, channels).image() if reads else []
    else:
        load, transforms = parts
    if not transforms:
        logger.warning("no preprocessing is known: scans are taken as their files hold them; config_file names one")
    sigmoid = getattr(inferer, "sigmoid", None)
    sigmoid = config.reads_sigmoid() if sigmoid is None else sigmoid
    return GivenNetwork(network, dims, channels, inferer, load, transforms, sigmoid)


def _as_definition(network: Source) -> Path | Mapping[str, Any]:
    """A path, or the content of a definition that was given as a text."""
    if isinstance(network, Mapping):
        return network
    if not str(network).lstrip().startswith("{"):
        if not Path(network).exists():
            raise MissingDataError(
                f"there is no network at {network}; give the folder of a bundle, a TorchScript file or a definition"
            )
        return Path(network)
    try:
        return dict(json.loads(str(network)))
    except ValueError as error:
        raise ConfigError(f"the network's definition is no JSON ({error}); correct it") from error


def _bundle_config(root: Path) -> Path:
    """The config of a bundle that segments scans."""
    files = [root / "configs" / f"inference{suffix}" for suffix in SUFFIXES]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise MissingDataError(
            f"{root} is no bundle that segments: there is no configs/inference.json or .yaml; name one as config_file"
        )
    return found


def _weights_in(folder: Path) -> str:
    """The weights in a folder."""
    found = next((folder / file for file in WEIGHTS if (folder / file).is_file()), None)
    if found is None:
        raise MissingDataError(f"{folder} holds neither {' nor '.join(WEIGHTS)}; give the file as weights")
    return str(found)


def _load(network: nn.Module, weights: str) -> nn.Module:
    """The network with weights from a state dictionary, a checkpoint or TorchScript."""
    if not Path(weights).is_file():
        raise MissingDataError(f"there are no weights at {weights}; give the file of a state dictionary")
    if Path(weights).suffix == ".ts":
        state: Mapping[str, Any] = read_torchscript(Path(weights))[0].state_dict()
    else:
        state = read_checkpoint(weights)
        nested = [state[key] for key in NESTED if isinstance(state.get(key), Mapping)]
        state = nested[0] if nested else state
    load_state(network, state, weights)
    return network


def read_torchscript(path: Path) -> tuple[nn.Module, dict[str, bytes]]:
    """Returns a TorchScript network on the CPU, and the configs that MONAI's export has put into its file.

    Args:
        path: File that ``torch.jit.save`` or ``monai.bundle ckpt_export`` wrote.

    Raises:
        MissingDataError: When there is no such file.
        WeightsError: When it is no TorchScript.
    """
    if not path.is_file():
        raise MissingDataError(f"there is no TorchScript at {path}; give a file that torch.jit.save wrote")
    extra: dict[str, Any] = {"metadata.json": b"", "inference.json": b""}
    try:
        with warnings.catch_warnings():
            # Torch calls the format deprecated; bundles are still passed on in it.
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    except (RuntimeError, ValueError, OSError) as error:
        reason = one_line(str(error).splitlines()[0])[:160]
        raise WeightsError(
            f"{path} is no TorchScript ({reason}); of a state dictionary, give the network's definition and the file "
            "as weights"
        ) from error
    assert is_scripted(network)
    return network, extra


def _json(text: bytes | str) -> dict[str, Any]:
    """The content of a JSON text; nothing for an empty one."""
    return dict(json.loads(text)) if text else {}


def _read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a bundle; nothing where there are none."""
    try:
        return _json(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON ({error}); correct it") from error


def _listed_channels(metadata: Mapping[str, Any]) -> int | None:
    """The channels of the image that metadata tell."""
    image: Any = metadata
    for key in ("network_data_format", "inputs", "image"):
        image = image.get(key, {}) if isinstance(image, Mapping) else {}
    number = image.get("num_channels") if isinstance(image, Mapping) else None
    return number if isinstance(number, int) else None
