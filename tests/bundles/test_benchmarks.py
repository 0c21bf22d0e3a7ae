"""The benchmarks run, whatever the configs of a bundle are made of."""

import math
import sys

import pytest
from monai.utils import set_determinism

from tests.benchmarks.bench import bench_heads, bench_mining, bench_step, bench_training


@pytest.mark.two_bundles
def test_training_can_be_measured(bundle, configs, tiny_settings):
    tiny = tiny_settings(configs["train"])
    tiny = {key: tiny[key] for key in ("roi_size", "network_def#features")}
    path = list(sys.path)
    try:
        figures = bench_training(str(bundle), steps=1, repeats=1, **tiny)
    finally:
        set_determinism(seed=None)
    assert list(figures) == ["training throughput, bundle / plain trainer"]
    assert all(math.isfinite(value) and value > 0 for value in figures.values())
    assert sys.path == path
    assert not [name for name in sys.modules if name.partition(".")[0] == "scripts"]


def test_cotraining_step_can_be_measured(bundle, configs):
    if "ema" not in configs["train"]["train"]:
        pytest.skip("no co-training")
    figures = bench_step(str(bundle), size=16, batch_size=2, repeats=1)
    assert list(figures) == ["co-training step / its unavoidable passes"]
    assert all(math.isfinite(value) and value > 0 for value in figures.values())


def test_mining_can_be_measured(bundle, configs):
    if "miner" not in configs["train"]:
        pytest.skip("no mining")
    figures = bench_mining(str(bundle), phantoms=3, repeats=1)
    names = ["mining throughput / bare batched forward", "mining throughput / loop of single patches"]
    assert list(figures) == names
    assert all(math.isfinite(value) and value > 0 for value in figures.values())


def test_contrastive_step_can_be_measured(bundle, configs):
    if "headed" not in configs["train"]:
        pytest.skip("no heads")
    figures = bench_heads(str(bundle), size=[32, 32], batch_size=4, repeats=1)
    assert list(figures) == ["contrastive step / step of the U-Net alone"]
    assert all(math.isfinite(value) and value > 0 for value in figures.values())
