"""``python -m tests.benchmarks``: prints a table of ratios within one run; see ``make bench``."""

import logging
from pathlib import Path

from monai.bundle import ConfigParser

from tests.benchmarks.bench import bench_heads, bench_inference, bench_mining, bench_step, bench_training

logger = logging.getLogger(__name__)


def measure_bundle(bundle):
    """What applies to a bundle: every one trains, some also co-train, contrast or mine."""
    config = ConfigParser.load_config_file(bundle / "configs" / "train.json")
    measured = bench_training(str(bundle))
    if "ema" in config["train"]:
        measured |= bench_step(str(bundle))
    if "headed" in config:
        measured |= bench_heads(str(bundle))
    if "miner" in config:
        measured |= bench_mining(str(bundle))
    return {f"{bundle.name}: {name}": value for name, value in measured.items()}


def main():
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    bundles = Path(__file__).resolve().parents[2] / "bundles"
    figures = {}
    for config in sorted(bundles.glob("*/configs")):
        figures |= measure_bundle(config.parent)
    for name, value in (figures | bench_inference()).items():
        logger.info("%-70s %8.3f", name, value)


if __name__ == "__main__":
    main()
