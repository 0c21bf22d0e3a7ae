"""Fits the signature bank of a trained network to its training cases."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from monai.data import DataLoader, Dataset
from monai.transforms import Compose
from torch import Tensor, nn

from ..errors import FeatureError, NotEnoughCasesError
from ..runtime.distributed import is_main_process, process_rank, wait_for_all, world_size
from ..runtime.progress import Progress
from ..runtime.weights import load_weights
from ..transforms.scan import scan_name
from .bank import SignatureBank
from .digest import bank_settings
from .distance import Array, Distance
from .inferer import SpectralInferer

logger = logging.getLogger(__name__)


def compute_signatures(
    cases: Sequence[dict[str, Any]],
    transform: Callable[..., Any],
    network: nn.Module,
    inferer: SpectralInferer,
    device: torch.device,
) -> tuple[Array, str]:
    """Returns the spectral signatures of cases, shared out over all processes, and the digest of the weights.

    Args:
        cases: Training cases, at least one; every process gives the same list.
        transform: Transform that loads and prepares a case, without randomness.
        network: Trained network; in evaluation mode afterwards.
        inferer: Inferer that computes signatures.
        device: Device that the network runs on.

    Returns:
        ``(K, D)`` float64, the same on every process, and the SHA-256 of the weights.

    Raises:
        FeatureError: When the features of a case have no signature, naming the case.
        NotEnoughCasesError: When there is no case.
    """
    if not cases:
        raise NotEnoughCasesError("no training case: a signature bank needs at least two; add cases to dataset_dir")
    network.to(device).eval()
    mine = list(cases)[process_rank() :: world_size()]
    rows: list[Array] = []
    digest = inferer.weights_digest(network)
    loader = DataLoader(Dataset(mine, transform), batch_size=1, num_workers=0)
    with Progress("spectral signatures", len(mine), "cases") as progress, torch.no_grad():
        for number, case in enumerate(progress.over(loader)):
            try:
                rows.append(inferer(case["image"].to(device), network)["signature"].numpy())
            except FeatureError as error:
                raise FeatureError(f"{scan_name(mine[number])}: {error}") from error
    if world_size() > 1:
        gathered: list[Any] = [None] * world_size()
        dist.all_gather_object(gathered, rows)
        rows = [row for part in gathered for row in part]
    return np.concatenate(rows), digest


def fit_bank(
    network: nn.Module,
    scans: Iterable[Tensor],
    inferer: SpectralInferer,
    *,
    image_transforms: Sequence[Any] = (),
    c: float = 2.5,
    distance: Distance = "nearest",
) -> SignatureBank:
    """Returns the bank of the given training scans, bound to the network's weights and to the inferer's settings.

    Args:
        network: Trained network; in evaluation mode afterwards.
        scans: Training scans, each ``(C, H, W[, D])``, prepared as for the network, on the network's device.
        inferer: Inferer that segments a scan and computes its signature.
        image_transforms: Transforms that have prepared the scans; the bank is bound to them. Default none.
        c: Standard deviations above the mean leave-one-out OODM at which the threshold lies, from 0 to 10. Default 2.5.
        distance: ``nearest`` (the paper) or ``mahalanobis``. Default ``nearest``.

    Raises:
        FeatureError: When the features of a scan have no signature.
        NotEnoughCasesError: When there are fewer than two distinct signatures (three for the Mahalanobis distance).
    """
    network.eval()
    with torch.no_grad():
        signatures = [inferer(scan[None], network)["signature"][0] for scan in scans]
    settings = bank_settings(inferer, image_transforms, inferer.weights_digest(network))
    return SignatureBank.fit(signatures, c=c, distance=distance, **settings)


class BankFitter:
    """Computes the signatures of the training cases with the best weights and writes the bank bound to them.

    Args:
        data: Training cases.
        load_transforms: Transforms that load and check an image.
        image_transforms: Transforms that prepare an image after loading; the bank is bound to the settings of these.
        network: Network that takes the best weights.
        inferer: Inferer that computes signatures.
        device: Device that the network runs on.
        save_dir: Folder of ``model.pt``, the best weights, which the bank is bound to; ``signature_bank.npz`` is
            written there too.
        threshold_c: Standard deviations above the mean leave-one-out OODM at which the threshold lies, the paper's C,
            from 0 to 10. Default 2.5.
        distance: ``nearest`` (the paper, and the default) or ``mahalanobis``.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        load_transforms: Sequence[Any],
        image_transforms: Sequence[Any],
        network: nn.Module,
        inferer: SpectralInferer,
        device: torch.device,
        save_dir: str | Path,
        *,
        threshold_c: float = 2.5,
        distance: Distance = "nearest",
    ) -> None:
        self.data, self.image_transforms = data, image_transforms
        self.transform = Compose([*load_transforms, *image_transforms])
        self.network, self.inferer, self.device = network, inferer, device
        self.weights_file, self.bank_file = Path(save_dir, "model.pt"), Path(save_dir, "signature_bank.npz")
        self.threshold_c, self.distance = threshold_c, distance

    def run(self) -> SignatureBank:
        """Fits the bank; the main process writes it.

        Raises:
            NotEnoughCasesError: When there are too few distinct training cases for a threshold.
            OutputError: When the bank cannot be written.
        """
        wait_for_all()
        load_weights(self.network, self.weights_file, device=self.device)
        signatures, digest = compute_signatures(self.data, self.transform, self.network, self.inferer, self.device)
        settings = bank_settings(self.inferer, self.image_transforms, digest)
        bank = SignatureBank.fit(signatures, c=self.threshold_c, distance=self.distance, **settings)
        if is_main_process():
            bank.save(self.bank_file)
            logger.info(
                "signature bank of %d cases, threshold %.4f, written to %s",
                len(bank.signatures), bank.threshold, self.bank_file,
            )  # fmt: skip
        return bank
