"""Fits the signature bank of any network: ``python -m common fit-bank NETWORK DATASET``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset
from monai.transforms import Compose

from ..data.cases import Case, decathlon_scans
from ..data.folders import find_scans
from ..data.semi_supervised import without_labels
from ..data.split import select_cases
from ..errors import ConfigError
from ..runtime.files import check_writable
from ..runtime.tables import number_text
from ..spectral import BankFitter, SignatureBank, SpectralInferer, choose_inferer
from ..spectral.distance import Distance
from ..spectral.fitting import describe_promise
from ..spectral.signature import SignatureForm
from .source import GivenNetwork, Source, read_network

logger = logging.getLogger(__name__)

BANK_FILE = "signature_bank.npz"
"""Name of a bank's file, in the current folder unless told."""


def fit_own_bank(
    network: Source,
    dataset_dir: str,
    *,
    bank_file: str = BANK_FILE,
    held_out_dir: str | None = None,
    split_file: str | None = None,
    layers: str | Sequence[str] | None = None,
    roi_size: Sequence[int] | None = None,
    overlap: float | None = None,
    divisor: int | Sequence[int] | None = None,
    sw_batch_size: int | None = None,
    per_voxel: bool = True,
    signature_form: SignatureForm = "full",
    sigmoid: bool | None = None,
    distance: Distance = "clusters",
    threshold_c: float = 2.5,
    false_alarm_rate: float | None = None,
    weights: str | None = None,
    config_file: str | None = None,
    in_channels: int | None = None,
    device: str | None = None,
) -> None:
    """Fits the signature bank of a network to the scans that it was trained on, and writes it.

    The config of a bundle is code and may run any: give only bundles that you trust.

    Args:
        network: Folder of a bundle in MONAI's format, a TorchScript file, or a file or text of JSON that defines the
            network, with ``_target_``, or of a whole config.
        dataset_dir: Folder of the training scans: images, DICOM series, or a Decathlon folder, of which the list
            ``training`` is taken.
        bank_file: File of the bank. Default ``signature_bank.npz`` in the current folder.
        held_out_dir: Folder of scans of further patients, which trained no weights; p-values are calibrated on them.
            Default none.
        split_file: The ``split.json`` of a training run, whose ``train`` and ``val`` are taken of ``dataset_dir``.
            Default none.
        layers: Names of the feature layers, ``image`` and ``output`` among them. By default, the first and the last
            feature map and ``image``; of TorchScript, ``image`` and ``output``.
        roi_size: Sliding window, in voxels along each axis. By default, that of the config's inferer.
        overlap: Share of a window that the next one covers again, in [0, 1). By default that of the config's inferer,
            or else 0.25.
        divisor: Number of voxels of which window sizes are multiples. By default the window never shrinks.
        sw_batch_size: Number of windows that go through the network at once. By default that of the config's inferer,
            or else 1.
        per_voxel: Whether the size of an image does not count. Default true.
        signature_form: ``unit`` (the paper) or ``full``, the default.
        sigmoid: Whether each channel of the logits is a class by itself. By default as the config's postprocessing
            says, or else where there is one channel.
        distance: ``nearest`` (the paper), ``mahalanobis``, ``ledoit_wolf`` or ``clusters``, the default.
        threshold_c: Standard deviations above the mean leave-one-out OODM at which the threshold lies, from 0 to 10.
            Default 2.5.
        false_alarm_rate: Promised share of false alarms, above 0, below 1. By default the rule of ``threshold_c``.
        weights: File of the weights. By default ``models/model.pt`` or ``models/model.ts`` of the bundle.
        config_file: Config that tells preprocessing and inferer. By default that of the bundle or the TorchScript file.
        in_channels: Number of channels of the input. By default that of the metadata or of the first convolution.
        device: Device that the network runs on. By default a GPU where there is one, else the CPU.

    Example:
        trustseg fit-bank my_bundle data/A
        trustseg fit-bank network.ts data/A -o signature_bank.npz --roi_size [96,96,96]

    Raises:
        ConfigError: When a setting is not accepted or missing, or the network cannot be run on an image alone.
        MissingDataError: When network, weights, config or scans are missing.
        WeightsError: When the weights belong to another network.
        ImageError: When a scan cannot be read or does not fit the network.
        NotEnoughCasesError: When there are too few scans for a threshold, or to keep ``false_alarm_rate``.
        OutputError: When the bank cannot be written.
    """
    check_writable(Path(bank_file).parent)
    given = read_network(network, weights=weights, config_file=config_file, in_channels=in_channels, device=device)
    window: dict[str, Any] = {"roi_size": roi_size, "overlap": overlap, "sw_batch_size": sw_batch_size}
    form: dict[str, Any] = {"divisor": divisor, "per_voxel": per_voxel, "signature_form": signature_form}
    chosen = None if layers is None else read_names(layers)
    inferer = own_inferer(given, layers=chosen, sigmoid=sigmoid, **window, **form)
    logger.info(
        "window %s, overlap %g, %s; %d preparing transform(s); the network reads %d channel(s)",
        " x ".join(map(str, inferer.roi_size)), inferer.overlap,
        "each channel a class by itself" if inferer.sigmoid else "channels are rivals, the first is background",
        len(given.image_transforms), given.in_channels,
    )  # fmt: skip
    cases, held_out = _find_cases(dataset_dir, held_out_dir, split_file, given.spatial_dims)
    transform = Compose([*given.load_transforms, *given.image_transforms])
    fitter = BankFitter(
        cases,
        given.load_transforms,
        given.image_transforms,
        given.network,
        inferer,
        next(iter(given.network.state_dict().values())).device,
        Path(bank_file).parent,
        held_out=Dataset(held_out, transform),
        held_out_cases=held_out,
        threshold_c=threshold_c,
        false_alarm_rate=false_alarm_rate,
        quality_cases=0,
        distance=distance,
    )
    bank = fitter.fit()
    bank.save(bank_file)
    logger.info("signature bank of %d scans, threshold %s, written to %s", *_summary(bank), bank_file)
    logger.info("%s", describe_promise(bank))


def own_inferer(given: GivenNetwork, *, layers: Sequence[str] | None, **settings: Any) -> SpectralInferer:
    """Returns the inferer that fits the bank: one of ours, where the config has it, or one with the config's window.

    Args:
        given: Network, and what is known of it.
        layers: Names of the feature layers; ``None`` for a choice, see :func:`choose_inferer`.
        **settings: Settings of :func:`choose_inferer`; those that are ``None`` are as the network's own inferer has
            them.

    Raises:
        ConfigError: When no sliding window is known, or a setting is not accepted.
    """
    own = given.inferer
    said = {name: value for name, value in settings.items() if value is not None}
    if hasattr(own, "feature_layers") and layers is None and "roi_size" not in said:
        logger.info("layers: %s (those of the bundle, with all its settings)", ", ".join(own.feature_layers))
        inferer: SpectralInferer = own
        return inferer
    for name in ("roi_size", "overlap", "sw_batch_size"):
        if getattr(own, name, None) is not None:
            said.setdefault(name, getattr(own, name))
    said.setdefault("sigmoid", given.sigmoid)
    said["roi_size"] = _window(said.get("roi_size"), given.spatial_dims)
    return choose_inferer(given.network, given.in_channels, layers=layers, **said)


def _window(roi_size: Any, spatial_dims: int) -> tuple[int, ...]:
    """The sliding window, which must be known along each axis."""
    sizes = tuple(roi_size) if isinstance(roi_size, Sequence) else (roi_size,) * spatial_dims
    if len(sizes) != spatial_dims or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ConfigError(
            f"roi_size is {roi_size!r}; needed are {spatial_dims} positive whole numbers, the window that the network "
            "sees at once: set roi_size"
        )
    return sizes


def read_names(layers: str | Sequence[Any]) -> list[str]:
    """Returns names of layers that a command line may have given as one text, such as ``conv_0,model.1,image``.

    Args:
        layers: Names, or one text with commas between them.

    Example:
        >>> read_names("[conv_0,model.1]"), read_names(("image", 0))
        (['conv_0', 'model.1'], ['image', '0'])
    """
    parts = layers.strip("[]()").split(",") if isinstance(layers, str) else layers
    return [str(part).strip(" '\"") for part in parts]


def _find_cases(
    dataset_dir: str, held_out_dir: str | None, split_file: str | None, spatial_dims: int
) -> tuple[list[Case], list[Case]]:
    """The training scans and those that trained no weights, without their labels."""
    if held_out_dir and split_file:
        raise ConfigError("held_out_dir and split_file both name scans that trained no weights; give one of them")
    listed = (Path(dataset_dir) / "dataset.json").is_file()
    found = (
        decathlon_scans(dataset_dir, sections=("training",))
        if listed
        else find_scans(dataset_dir, spatial_dims=spatial_dims)
    )
    others = find_scans(held_out_dir, spatial_dims=spatial_dims, name="held_out_dir") if held_out_dir else []
    if split_file:
        others = select_cases(found, split_file, "val")
        found = select_cases(found, split_file, "train")
    # A bank needs no labels.
    return without_labels(found), without_labels(others)


def _summary(bank: SignatureBank) -> tuple[int, str]:
    """Number of training scans and threshold."""
    return len(bank.signatures), number_text(bank.threshold)
