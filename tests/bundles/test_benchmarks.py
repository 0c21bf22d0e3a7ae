"""The benchmarks run, whatever the configs of a bundle are made of."""

import math
import sys

import pytest
from monai.utils import set_determinism

from tests.benchmarks.bench import bench_heads, bench_mining, bench_step, bench_training
from tests.benchmarks.levers import Lever, bench_levers, use_channels_last, use_loops
from tests.benchmarks.steps import ITERATIONS, TimedTrainer, trainers_of


@pytest.fixture
def tiny(configs, tiny_settings):
    """A small patch and network."""
    settings = tiny_settings(configs["train"])
    return {key: settings[key] for key in ("roi_size", "network_def#features")} | {"batch_size": 2}


@pytest.mark.two_bundles
def test_training_can_be_measured(bundle, tiny):
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


@pytest.mark.two_bundles
def test_step_and_pipeline_of_every_trainer_can_be_measured(bundle, tiny, bundle_importable, tmp_path):
    blocks = trainers_of(bundle)
    assert "train" in blocks
    try:
        with bundle_importable(bundle):
            for block in blocks:
                timed = TimedTrainer(bundle, tmp_path / block, block, **tiny)
                assert len(timed.epoch()) == ITERATIONS
                assert all(seconds > 0 for step in timed.epoch() for seconds in step)
                names = [name for name, _, _ in timed.operators()]
                assert "aten::convolution_backward" in names
    finally:
        set_determinism(seed=None)


@pytest.mark.two_bundles
def test_levers_can_be_measured(bundle, tiny):
    levers = {
        "last": Lever(change=use_channels_last),
        "loops": Lever(change=use_loops),
        "one": Lever({"batch_size": 4}),
    }
    try:
        ratios = bench_levers(bundle, repeats=1, levers=levers, **tiny)
    finally:
        set_determinism(seed=None)
    assert list(ratios) == list(levers)
    assert all(math.isfinite(value) and value > 0 for value in ratios.values())
