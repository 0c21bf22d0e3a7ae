"""Benchmarks: ratios of times within one run, never absolute times."""

from __future__ import annotations

import logging
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer

from common.networks import DenseSkipUNet
from common.ood_mining import score_batches
from common.spectral import SpectralInferer
from tests.benchmarks.steps import read_config
from tests.running import importable

logger = logging.getLogger(__name__)


def paired_ratio(first: Callable[[], Any], second: Callable[[], Any], *, repeats: int) -> tuple[float, list[float]]:
    """Returns the median of time(first) / time(second), run in turn so that drifts of the machine cancel.

    Args:
        first: in the numerator.
        second: in the denominator.
        repeats: pairs that count, after a warm-up of each.

    Returns:
        The median and all ratios.
    """
    first(), second()
    ratios = []
    for number in range(repeats):
        times = {}
        # Every other pair is run in the other order.
        for task in (first, second) if number % 2 == 0 else (second, first):
            start = time.perf_counter()
            task()
            times[task] = time.perf_counter() - start
        ratios.append(times[first] / times[second])
    return statistics.median(ratios), ratios


def segment_volume(size: int, roi: int, with_signature: bool, repeats: int = 1) -> tuple[list[float], float]:
    """Segments a random cube and returns the seconds of every run and the peak memory, in MB, on the device used.

    Args:
        size: voxels along each axis.
        roi: sliding window along each axis.
        with_signature: whether the spectral signature is computed.
        repeats: runs.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    network = DenseSkipUNet(3, 1, 1).eval().to(device)
    image = torch.rand(1, 1, size, size, size, device=device)
    inferer = SpectralInferer([roi] * 3, ["decoders.0"], with_signature=with_signature)
    seconds = []
    with torch.no_grad():
        for _ in range(repeats):
            start = time.perf_counter()
            inferer(image, network)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else 0.0
    return seconds, peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def bench_inference(size: int = 256, roi: int = 96, repeats: int = 2) -> dict[str, float]:
    """Returns time ratio and extra memory of inference with the signature, each run in a process of its own."""
    runs: dict[bool, list[float]] = {True: [], False: []}
    peaks: dict[bool, list[float]] = {True: [], False: []}
    for number in range(repeats):
        for with_signature in (True, False) if number % 2 == 0 else (False, True):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                seconds, peak = pool.submit(segment_volume, size, roi, with_signature).result()
            runs[with_signature] += seconds
            peaks[with_signature].append(peak)
            logger.info("signature %s: %.1f s, peak %.0f MB", with_signature, seconds[0], peak)
    ratios = [a / b for a, b in zip(runs[True], runs[False], strict=True)]
    extra = statistics.median(peaks[True]) - statistics.median(peaks[False])
    return {"inference time, with / without signature": statistics.median(ratios), "extra memory, MB": extra}


def bench_training(bundle: str, steps: int = 12, repeats: int = 5, **settings: Any) -> dict[str, float]:
    """Returns the training throughput of a bundle against MONAI's plain trainer, same network, data and transforms.

    Args:
        bundle: folder of the bundle.
        steps: iterations of an epoch.
        repeats: pairs of epochs.
        **settings: of ``train.json``.
    """
    with tempfile.TemporaryDirectory() as folder, importable(bundle):
        trainer, plain = (
            _epoch(bundle, Path(folder) / name, steps, settings, plain=name == "plain") for name in ("own", "plain")
        )
        ratio, ratios = paired_ratio(plain, trainer, repeats=repeats)
    logger.info("throughput ratios: %s", [round(value, 3) for value in ratios])
    return {"training throughput, bundle / plain trainer": ratio}


def _epoch(bundle: str, output_dir: Path, steps: int, settings: Mapping[str, Any], *, plain: bool) -> Callable[[], Any]:
    """A function that trains one epoch more each time it is called."""
    parser = ConfigParser()
    parser.read_config(read_config(bundle))
    batch = {"output_dir": str(output_dir), "samples_per_epoch": 2 * steps, "batch_size": 2, "max_epochs": 1_000_000}
    parser.update(batch | {"phantom_cases": 6, "val_interval": 1_000_000, **settings})
    if plain:
        # The seeder stays: both must see the same patches.
        seeder = [handler for handler in parser["train"]["handlers"] if handler["_target_"].endswith("EpochSeeder")]
        parser["train"]["handlers"] = seeder
    trainer: SupervisedTrainer = parser.get_parsed_content("train#trainer")

    def run() -> None:
        trainer.state.max_epochs = trainer.state.epoch + 1
        trainer.run()

    return run


def bench_step(bundle: str, *, size: int = 48, batch_size: int = 4, repeats: int = 10) -> dict[str, float]:
    """Returns the time of a co-training step against the passes it cannot do without, same networks and batch.

    Those are forward and backward of both networks on the labeled, the unlabeled and the mixed images, and the forward
    passes of both averages on the unlabeled ones.

    Args:
        bundle: folder of a bundle whose trainer has a ``CoTrainingStep``.
        size: voxels of a patch along each axis.
        batch_size: labeled and unlabeled patches together.
        repeats: pairs of steps.
    """
    with tempfile.TemporaryDirectory() as folder, importable(bundle):
        parser = ConfigParser()
        parser.read_config(read_config(bundle))
        parser.update({"output_dir": folder})
        engine, step = _engine(parser, "network")
        network, optimizer, device = engine.network, engine.optimizer, engine.state.device
        shape = (batch_size // 2, parser["in_channels"], *[size] * parser["spatial_dims"])
        image, unlabeled = torch.randn(shape, device=device), torch.randn(shape, device=device)
        label = torch.randint(0, parser["out_channels"], (shape[0], 1, *shape[2:]), device=device)
        batch = {"image": image, "label": label, "unlabeled": unlabeled}

        def passes() -> None:
            optimizer.zero_grad(set_to_none=True)
            # As in the step, in bfloat16 where it is.
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=engine.autocasts):
                with torch.no_grad():
                    step.ema.module.each(unlabeled)
                outputs = [*network(image), *network(unlabeled), *network(image, unlabeled)]
            torch.stack([output.sum() for output in outputs]).sum().backward()
            _wait(device)

        ratio, ratios = paired_ratio(partial(_step_once, engine, step, batch), passes, repeats=repeats)
    logger.info("step ratios: %s", [round(value, 3) for value in ratios])
    return {"co-training step / its unavoidable passes": ratio}


def _engine(parser: ConfigParser, network: str) -> tuple[SimpleNamespace, Any]:
    """What stands in for a trainer, and the iteration of a config, whose trainer has the network of that id."""
    names = ("train#step", network, "optimizer", "device")
    step, trained, optimizer, device = (parser.get_parsed_content(name) for name in names)
    # The last step of a training, in which all that is ramped or starts late counts.
    last = {"epoch": 1, "iteration": 1, "max_epochs": 1, "epoch_length": 1}
    state = SimpleNamespace(device=device, output=None, **last)
    engine = SimpleNamespace(state=state, network=trained, optimizer=optimizer, non_blocking=False)
    engine.autocasts = device.type == "cuda"
    engine.fire_event = lambda _event: None
    return engine, step


def bench_heads(
    bundle: str, *, size: Sequence[int] | None = None, batch_size: int = 16, repeats: int = 10
) -> dict[str, float]:
    """Returns the time of a step of class-wise contrastive learning against one of the U-Net alone, on the same batch.

    Args:
        bundle: folder of a bundle whose trainer has a ``ContrastiveStep``.
        size: of a frame; that of the config by default.
        batch_size: frames, half of them with masks.
        repeats: pairs of steps.
    """
    with tempfile.TemporaryDirectory() as folder, importable(bundle):
        steps = []
        for method in ("both", "unet"):
            parser = ConfigParser()
            parser.read_config(read_config(bundle))
            parser.update({"output_dir": folder, "method": method} | ({"roi_size": list(size)} if size else {}))
            engine, step = _engine(parser, "headed")
            classes, shape = parser["out_channels"], (batch_size, parser["in_channels"], *parser["roi_size"])
            generator = torch.Generator().manual_seed(0)
            batch = {
                "image": torch.randn(shape, generator=generator),
                "label": torch.randint(0, classes, (batch_size // 2, 1, *shape[2:]), generator=generator),
                "presence": torch.randint(0, 2, (batch_size, classes - 1), generator=generator).float(),
                "phase": torch.full((batch_size,), -1),
            }
            given = {name: value.to(engine.state.device) for name, value in batch.items()}
            steps.append(partial(_step_once, engine, step, given))
        ratio, ratios = paired_ratio(*steps, repeats=repeats)
    logger.info("step ratios: %s", [round(value, 3) for value in ratios])
    return {"contrastive step / step of the U-Net alone": ratio}


def _step_once(engine: SimpleNamespace, step: Callable[..., Any], batch: dict[str, torch.Tensor]) -> None:
    step(engine, batch)
    _wait(engine.state.device)


def bench_mining(bundle: str, *, phantoms: int = 12, repeats: int = 5) -> dict[str, float]:
    """Returns the throughput of scoring candidates against that of bare forward passes, and of scoring one by one.

    The loop does the same work, the cutting of patches and the scores included, in batches of one.

    Args:
        bundle: folder of a bundle that mines.
        phantoms: pictures whose patches are scored.
        repeats: pairs of passes over all of them.
    """
    with tempfile.TemporaryDirectory() as folder, importable(bundle):
        parser = ConfigParser()
        parser.read_config(read_config(bundle))
        parser.update({"output_dir": folder, "phantom_cases": phantoms})
        miner, network, device = (parser.get_parsed_content(name) for name in ("miner", "network", "device"))
        indices = range(miner.dataset.num_original, len(miner.dataset))
        network.eval()

        patches = [batch["image"] for batch in miner.dataset.batches(indices, miner.batch_size)]

        def forward() -> None:
            with torch.no_grad():
                for patch in patches:
                    network(patch.to(device))
            _wait(device)

        def one_by_one() -> None:
            score_batches(network, miner.dataset.batches(indices, 1), device)
            _wait(device)

        def mine() -> None:
            miner.scores_of(indices)
            _wait(device)

        batched, bare = paired_ratio(forward, mine, repeats=repeats)
        single, alone = paired_ratio(one_by_one, mine, repeats=repeats)
    rounded = [[round(ratio, 3) for ratio in ratios] for ratios in (bare, alone)]
    logger.info("%d patches in batches of %d; ratios: %s and %s", len(indices), miner.batch_size, *rounded)
    return {"mining throughput / bare batched forward": batched, "mining throughput / loop of single patches": single}


def _wait(device: torch.device) -> None:
    """Returns when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
