"""``python -m tests.benchmarks``: prints times of steps and ratios within one run; see ``make bench``."""

import argparse
import logging
import sys
from pathlib import Path

from monai.bundle import ConfigParser

from tests.benchmarks.bench import bench_heads, bench_inference, bench_mining, bench_step, bench_training
from tests.benchmarks.steps import ROOT
from tests.benchmarks.tables import lever_table, operator_table, step_table

logger = logging.getLogger(__name__)

PARTS = ("steps", "operators", "levers", "ratios")


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


def log_ratios(bundles):
    figures = {}
    for bundle in bundles:
        figures |= measure_bundle(ROOT / "bundles" / bundle)
    for name, value in (figures | bench_inference()).items():
        logger.info("%-70s %8.3f", name, value)


def main():
    names = sorted(config.parent.name for config in ROOT.glob("bundles/*/configs"))
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="what is measured; all by default")
    parser.add_argument("--bundles", nargs="+", default=names, choices=names, help="all by default")
    parser.add_argument("--before", type=Path, help="another checkout, whose step times stand beside this one's")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    roots = [ROOT] if given.before is None else [given.before.resolve(), ROOT]
    tables = {
        "steps": lambda: step_table(given.bundles, roots),
        "operators": lambda: operator_table(given.bundles, ROOT),
        "levers": lambda: lever_table(given.bundles, ROOT),
    }
    for part in [part for part in tables if part in given.parts]:
        for line in tables[part]():
            logger.info(line)
        logger.info("")
    if "ratios" in given.parts:
        log_ratios(given.bundles)


if __name__ == "__main__":
    main()
