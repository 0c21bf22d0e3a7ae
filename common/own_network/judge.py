"""Judges scans with any network and its signature bank: ``python -m common judge NETWORK SCANS``."""

from __future__ import annotations

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
from ..runtime.files import check_writable
from ..spectral import ScanJudge, SignatureBank, SpectralVerdictd
from ..spectral.judging import FIT_COMMAND
from ..transforms import LoadScand
from .fit import BANK_FILE
from .source import GivenNetwork, Source, read_network


def judge_scans(
    network: Source,
    dataset_dir: str | None = None,
    *,
    bank_file: str = BANK_FILE,
    output_dir: str = "verdicts",
    sw_batch_size: int = 1,
    list_paths: bool = False,
    weights: str | None = None,
    config_file: str | None = None,
    in_channels: int | None = None,
    device: str | None = None,
) -> None:
    """Judges scans: lines on the console for the first 20, and all in ``ood_report.csv`` and ``ood_report.json``.

    Layers, window and all that decides over signatures are those of the bank. The tables have the columns of a bundle's
    inference. The config of a bundle is code and may run any: give only bundles that you trust.

    Args:
        network: Network that the bank was fitted to, given as for the command ``fit-bank``.
        dataset_dir: One scan, or a folder of scans: images, DICOM series, or a Decathlon folder. Needed.
        bank_file: File of the bank. Default ``signature_bank.npz`` in the current folder.
        output_dir: Folder of the tables. Default ``verdicts``.
        sw_batch_size: Number of windows that go through the network at once. Default 1.
        list_paths: Whether listings show names of files and folders of DICOM. Default false, which shows digests.
        weights: File of the weights. By default ``models/model.pt`` or ``models/model.ts`` of the bundle.
        config_file: Config that tells the preprocessing. By default that of the bundle or the TorchScript file.
        in_channels: Number of channels of the input. By default that of the metadata or of the first convolution.
        device: Device that the network runs on. By default a GPU where there is one, else the CPU.

    Raises:
        ConfigError: When no scans are given, or a config cannot be read or made into objects.
        MissingDataError: When network, weights, bank or scans are missing.
        WeightsError: When the weights belong to another network.
        BankError: When the bank is unreadable or was fitted with other weights or transforms.
        CasesFailedError: When a scan failed; the others have their rows.
        OutputError: When a table cannot be written.
    """
    if dataset_dir is None:
        raise ConfigError(
            "judge takes a network of your own and its scans: judge NETWORK SCANS -o FOLDER; without one, a bundle "
            "judges scans: segment SCANS -o FOLDER"
        )
    check_writable(output_dir)
    if not Path(bank_file).is_file():
        raise MissingDataError(f"there is no signature bank at {bank_file}; fit it with: {FIT_COMMAND}")
    given = read_network(network, weights=weights, config_file=config_file, in_channels=in_channels, device=device)
    transforms = list(given.image_transforms)
    judge = ScanJudge(
        given.network, SignatureBank.load(bank_file), image_transforms=transforms, sw_batch_size=sw_batch_size
    )
    report = OODReport(output_dir, bank_file, load=LoadScand("image"), pictures=0, saves=False)
    transform = Compose([*given.load_transforms, *transforms])
    cases = scans_to_segment(str(dataset_dir), output_dir, spatial_dims=given.spatial_dims, list_paths=list_paths)
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
