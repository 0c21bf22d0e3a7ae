"""Measures what each lever does to the time of a training step, all of them in turn within one run."""

import tempfile
from math import prod
from typing import Any, NamedTuple

import torch
from ignite.engine import Events

from tests.benchmarks.steps import TimedTrainer, medians, read_config, realistic
from tests.running import importable


class Lever(NamedTuple):
    """A change of a training: settings of ``train.json``, or something done to the trainer."""

    settings: dict[str, Any] = {}
    change: Any = None


def use_channels_last(timed):
    """Network, averaged network and batches with the channels last in memory."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    spatial_dims = timed.parser["spatial_dims"]
    step = timed.parser.get_parsed_content("train#step") if "step" in timed.parser["train"] else None
    for network in (timed.trainer.network, getattr(step, "ema", None)):
        if network is not None:
            network.to(memory_format=formats[spatial_dims + 2])

    def convert(engine):
        engine.state.batch = {
            name: value.contiguous(memory_format=formats[value.ndim]) if value.ndim in formats else value
            for name, value in engine.state.batch.items()
        }

    timed.trainer.add_event_handler(Events.GET_BATCH_COMPLETED, convert)


def use_loops(timed):
    """An optimizer that goes from parameter to parameter, in place of one call for all."""
    for group in timed.trainer.optimizer.param_groups:
        group["fused"] = group["foreach"] = False


def levers_of(bundle, settings):
    """What can be changed of a bundle's training: name -> lever."""
    config = read_config(bundle)
    roi_size, divisor = settings["roi_size"], config["divisor"]
    levers = {"channels last": Lever(change=use_channels_last), "optimizer in loops": Lever(change=use_loops)}
    if "step" not in config["train"]:
        levers["gradients set to zero"] = Lever({"train#trainer#optim_set_to_none": False})
    levers |= {f"norm {norm}": Lever({"network_def#norm": norm}) for norm in ("batch", "instance", None)}
    # A larger patch would be cut to the size of the phantoms.
    half = [size // 2 // divisor * divisor for size in roi_size]
    levers[f"half a patch, {'x'.join(map(str, half))}"] = Lever({"roi_size": half})
    # Halves of a batch, and pairs in it, need two.
    smallest = 1 if "step" not in config["train"] else 2
    batches = [size for size in (1, 2, 4, 8) if size >= smallest and size != settings["batch_size"]]
    return levers | {f"batch of {size}": Lever({"batch_size": size}) for size in batches}


def bench_levers(bundle, *, repeats=3, levers=None, **settings):
    """How many times faster a step is with each lever, per voxel of the batch: name -> ratio, above 1 where it helps.

    ``settings`` are those of ``train.json`` without any lever; by default those of the bundle, a batch of at most 4.
    """
    base = realistic(bundle)
    base = base | {"batch_size": min(base["batch_size"], 4)} | settings
    chosen = {"": Lever()} | (levers_of(bundle, base) if levers is None else levers)
    with tempfile.TemporaryDirectory() as folder, importable(bundle):
        timed = {name: _prepare(bundle, folder, base | lever.settings, lever) for name, lever in chosen.items()}
        steps = {name: [] for name in timed}
        for number in range(repeats + 1):
            for name, trainer in timed.items():
                # The first epoch is a warm-up.
                steps[name] += trainer.epoch() if number else trainer.epoch()[:0]
    voxels = {
        name: prod((base | lever.settings)["roi_size"]) * timed[name].batch_size for name, lever in chosen.items()
    }
    each = {name: medians(found).step / voxels[name] for name, found in steps.items()}
    return {name: each[""] / seconds for name, seconds in each.items() if name}


def _prepare(bundle, folder, settings, lever):
    timed = TimedTrainer(bundle, folder, **settings)
    if lever.change is not None:
        lever.change(timed)
    return timed
