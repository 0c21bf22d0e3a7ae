"""Chooses how long a training is, and what is measured in its course, from its time and the speed of the machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .choices import Choice
from .fingerprint import Fingerprint

FEWEST = 2
"""Steps that a training takes at least: one for each of two validations."""

QUALITY = 0.15
"""Share of the time in which the quality of the segmentation is measured, on cases that are kept from training."""

INFERENCES = 9
"""Inferences for a case whose quality is measured: as it is, and with eight damages."""

REGIME = {
    "optimizer_name": "adamw",
    "learning_rate": 0.001,
    "weight_decay": 0.0001,
    "decline": "polynomial",
    "averaged": True,
}
"""What converged on every data set of ``docs/gates.md``."""


def choose_length(
    minutes: float, seconds_per_step: float, *, steps: int | None = None, pretrained: bool = False
) -> list[Choice]:
    """Returns the number of steps and of validations, and the regime.

    Args:
        minutes: Time of the training, in minutes, above 0.
        seconds_per_step: Seconds of a step, above 0.
        steps: Number of steps where it is decided already. Default ``None`` for what fits the time.
        pretrained: Whether as many steps of a pre-training come before. Default false.
    """
    # The other third goes to reading, validation and the signature bank.
    why = "given"
    if steps is None:
        steps = min(max(int(minutes * 60 * 0.65 / seconds_per_step), FEWEST), 20_000)
        why = f"65 % of {minutes:g} minutes, {seconds_per_step:.2g} s a step as measured here"
        why += ", the fewest that there are" if steps == FEWEST else ""
        # Epochs are of one length.
        steps -= steps % _epochs(steps)
    epochs = _epochs(steps)
    chosen = [Choice("iterations", steps, why), Choice("max_epochs", epochs, "validations, shared out evenly")]
    if pretrained:
        chosen.append(Choice("pretrain_iterations", steps, "as many steps of pre-training"))
        chosen.append(Choice("pretrain_epochs", epochs, "with as many validations"))
    return chosen + [Choice(name, value, "converged on the data of docs/gates.md") for name, value in REGIME.items()]


def _epochs(steps: int) -> int:
    """Number of validations that a training of so many steps is worth."""
    return min(20, max(FEWEST, steps // 50))


def choose_validation(data: Fingerprint, settled: Mapping[str, Any], *, resized: bool) -> list[Choice]:
    """Returns how many cases a validation measures, where all of them would take longer than an epoch of training.

    A window costs less than half of a training step's, since nothing flows back.

    Args:
        data: Measures of the data.
        settled: Settings that are chosen so far, over those of ``train.json``.
        resized: Whether whole pictures are resized to one window.
    """
    steps, windows = settled["iterations"] // settled["max_epochs"], _windows(data, settled, resized=resized)
    cases = _held_out(data, settled)
    seen = 2 * steps * settled["batch_size"]
    if cases * windows <= seen:
        return []
    why = f"{cases} cases of {windows} windows would take longer than the {steps} steps of an epoch"
    return [Choice("val_cases", min(cases, max(2, seen // windows)), why)]


def choose_quality(
    minutes: float, seconds_per_step: float, data: Fingerprint, settled: Mapping[str, Any], *, resized: bool
) -> list[Choice]:
    """Returns on how many cases the Dice is measured that verdicts predict, if less than by default.

    A window without a step back takes about a third of its share of a step.

    Args:
        minutes: Time of the training, in minutes, above 0.
        seconds_per_step: Seconds of a step, above 0.
        data: Measures of the data.
        settled: Settings that are chosen so far, over those of ``train.json``.
        resized: Whether whole pictures are resized to one window.
    """
    each = _windows(data, settled, resized=resized) * seconds_per_step / settled["batch_size"] / 3
    number = int(QUALITY * minutes * 60 / (INFERENCES * each))
    if number >= min(settled["quality_cases"], _held_out(data, settled)):
        return []
    why = f"{QUALITY:.0%} of {minutes:g} minutes, {INFERENCES} inferences a case of {each:.2g} s"
    return [Choice("quality_cases", number, why)]


def _windows(data: Fingerprint, settled: Mapping[str, Any], *, resized: bool) -> int:
    """Windows of a median case; they overlap by a quarter."""
    if resized:
        return 1
    spacing = [target if target and target > 0 else own for target, own in _pairs(settled.get("spacing"), data.spacing)]
    sizes = [extent * own / step for extent, own, step in zip(data.size, data.spacing, spacing, strict=True)]
    sides = zip(sizes, settled["roi_size"], strict=True)
    return math.prod(max(1, math.ceil((extent - side) / (0.75 * side)) + 1) for extent, side in sides)


def _held_out(data: Fingerprint, settled: Mapping[str, Any]) -> int:
    """Cases that are kept for validation."""
    return max(1, round(settled["val_fraction"] * data.num_cases))


def _pairs(targets: Sequence[float] | None, own: Sequence[float]) -> list[tuple[float | None, float]]:
    """Every spacing with the one that it is brought to."""
    return list(zip([None] * len(own) if targets is None else targets, own, strict=True))
