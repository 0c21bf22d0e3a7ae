"""Judges scans with a bundle, or with any network and its signature bank: ``judge SCANS``, ``judge NETWORK SCANS``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose

from ..data import scans_to_segment
from ..engine.cases import CaseDataset, CaseEvaluator
from ..errors import ConfigError, MissingDataError
from ..handlers import OODReport
from ..handlers.gallery import class_map
from ..runtime.bundle_folders import find_bundle
from ..runtime.files import check_writable
from ..spectral import ScanJudge, SignatureBank, SpectralVerdictd
from ..spectral.judging import FIT_COMMAND
from ..transforms import LoadScand
from .fit import BANK_FILE
from .source import GivenNetwork, Source, read_network

logger = logging.getLogger(__name__)


def judge_scans(
    network: Source,
    scans: str | None = None,
    *,
    bundle: str | None = None,
    model_dir: str | None = None,
    bank_file: str | None = None,
    output_dir: str = "verdicts",
    sw_batch_size: int = 1,
    list_paths: bool = False,
    weights: str | None = None,
    config_file: str | None = None,
    in_channels: int | None = None,
    device: str | None = None,
) -> None:
    """Judges scans without segmenting them, by a bundle or by a network of your own and its bank.

    By a bundle, the verdicts are those of ``segment``. The first 20 are lines on the console, and all are in
    ``ood_report.csv`` and ``ood_report.json``.

    Layers, window and all that decides over signatures are those of the bank. The tables have the columns of a bundle's
    inference, and ``report.html`` shows them. The config of a bundle is code and may run any: give only bundles that
    you trust.

    Args:
        network: Network of your own that the bank was fitted to, given as for the command ``fit-bank``. May be left
            out: a bundle then judges the scans, which are the only argument.
        scans: One scan, or a folder of scans: images, DICOM series, or a Decathlon folder. By default none:
            the first argument is the scans then.
        bundle: Name of the bundle that judges scans alone, or its folder. Default ``spectral_ood``; from an archive,
            the archive's own.
        model_dir: Folder of weights and bank that the bundle shall judge by, such as those of a training of your own.
            By default that of the bundle.
        bank_file: File of the bank. By default that of ``model_dir``; with a network of your own
            ``signature_bank.npz`` in the current folder.
        output_dir: Folder of the tables. Default ``verdicts``.
        sw_batch_size: Number of windows that go through the network at once. Default 1.
        list_paths: Whether listings show names of files and folders of DICOM. Default false, which shows digests.
        weights: File of the weights. By default that of ``model_dir``; with a network of your own ``models/model.pt``
            or ``models/model.ts`` of the bundle.
        config_file: Config that tells the preprocessing. By default that of the bundle or the TorchScript file.
        in_channels: Number of channels of the input. By default that of the metadata or of the first convolution.
        device: Device that the network runs on. By default a GPU where there is one, else the CPU.

    Example:
        trustseg judge scans -o verdicts
        trustseg judge scans -o verdicts -m my_run/models
        trustseg judge network.ts scans -o verdicts --bank_file signature_bank.npz

    Raises:
        ConfigError: When a network comes with a bundle or ``model_dir``, or a config cannot be read or made into
            objects.
        MissingDataError: When network, weights, bank or scans are missing.
        WeightsError: When the weights belong to another network.
        BankError: When the bank is unreadable or was fitted with other weights or transforms.
        CasesFailedError: When a scan failed; the others have their rows.
        OutputError: When a table cannot be written.
    """
    network, found, folder = _settle(network, scans, bundle, model_dir)
    bank_file = bank_file or str(Path(folder or "", BANK_FILE))
    check_writable(output_dir)
    if not Path(bank_file).is_file():
        raise MissingDataError(f"there is no signature bank at {bank_file}; fit it with: {FIT_COMMAND}")
    given = read_network(
        network, model_dir=folder, weights=weights, config_file=config_file, in_channels=in_channels, device=device
    )
    cases = scans_to_segment(found, output_dir, spatial_dims=given.spatial_dims, list_paths=list_paths)
    transforms = list(given.image_transforms)
    judge = ScanJudge(
        given.network, SignatureBank.load(bank_file), image_transforms=transforms, sw_batch_size=sw_batch_size
    )
    report = OODReport(output_dir, bank_file, load=LoadScand("image"), pictures=0, saves=False)
    transform = Compose([*given.load_transforms, *transforms])
    evaluator = CaseEvaluator(
        device=next(iter(given.network.state_dict().values())).device,
        val_data_loader=DataLoader(CaseDataset(cases, transform, report=report), batch_size=1),
        network=given.network,
        inferer=judge.inferer,
        postprocessing=Compose([SpectralVerdictd("pred", bank_file, judge.inferer, transforms), _classes(given)]),
        val_handlers=[report],
    )
    evaluator.run()
    report.finish()
    logger.info("to look at: %s", Path(output_dir, "report.html"))


def _settle(
    network: Source, scans: str | None, bundle: str | None, model_dir: str | None
) -> tuple[Source, str, str | None]:
    """Network, scans, and folder of weights and bank; of a bundle, where a network and scans are not both given."""
    for option, value in (("bundle", bundle), ("model_dir", model_dir)):
        if scans is not None and value is not None:
            raise ConfigError(
                f"judge takes a network or --{option}, not both; without {network!r} the bundle judges the scans"
            )
    if scans is not None:
        return network, str(scans), None
    root = find_bundle(bundle)
    logger.info("bundle: %s", root)
    return str(root), str(network), str(root / "models") if model_dir is None else str(model_dir)


def _classes(given: GivenNetwork) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Makes class indices of logits, for the outlines on the page; what has another grid is no segmentation."""

    def convert(data: dict[str, Any]) -> dict[str, Any]:
        logits, image = data.pop("pred"), data["image"]
        if logits.shape[1:] == image.shape[1:]:
            alone = len(logits) == 1 if given.sigmoid is None else given.sigmoid
            found = class_map(logits, rivals=not alone, threshold=0.0)
            data["pred"] = MetaTensor(found, affine=image.affine) if isinstance(image, MetaTensor) else found
        return data

    return convert
