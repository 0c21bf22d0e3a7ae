"""Chooses how long a training is, and what is measured in its course, from its time and the speed of the machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..spectral.quality import MIN_PATIENTS
from .choices import LABELS, Choice
from .fingerprint import Fingerprint

FEWEST = 2
"""Steps that a training takes at least."""

TRAINING, VALIDATION = 0.65, 0.25
"""Shares of a training's time for its steps and for its validations; the rest is for reading."""

QUALITY = 0.15
"""Share of the time in which the quality of the segmentation is measured, on cases that are kept from training."""

LEAST = 0.25
"""Share of the time that stays for training, however long the signature bank takes; all together is then longer."""

INFERENCES = 9
"""Inferences for a case whose quality is measured: as it is, and with eight damages."""

INFERENCE = 0.5
"""Time of the inference of a window, with its signature, over its share of a training step; 0.35 to 0.6 on a CPU."""

REGIME = {
    "optimizer_name": "adamw",
    "learning_rate": 0.001,
    "weight_decay": 0.0001,
    "decline": "polynomial",
    "averaged": True,
}
"""What converged on every data set of ``docs/gates.md``."""


@dataclass(frozen=True)
class Budget:
    """Minutes of a training, and what of them goes to the end of it.

    Args:
        minutes: Time of the whole, in minutes, above 0.
        bank: Time of the signatures of training and held-out cases, in minutes, from 0. Default 0.
        quality: Time in which the quality of the segmentation is measured, in minutes, from 0. Default 0.
        trainings: Number of trainings, one after the other, of the same length. Default 1.
    """

    minutes: float
    bank: float = 0.0
    quality: float = 0.0
    trainings: int = 1

    @property
    def each(self) -> float:
        """Time of each training, in minutes."""
        return max(self.minutes - self.bank - self.quality, LEAST * self.minutes) / self.trainings

    def choice(self) -> Choice:
        """Returns the time as a row of the plan, which says what it is for."""
        train = self.each * self.trainings
        uses = [f"{train:.2g} " + ("to train" if self.trainings == 1 else f"for {self.trainings} trainings")]
        uses += [f"{_short(self.bank)} for the signature bank"]
        uses += [f"{_short(self.quality)} for the expected Dice"] if self.quality else []
        more = "; more than given" if train + self.bank + self.quality > 1.001 * self.minutes else ""
        return Choice("minutes", self.minutes, ", ".join(uses) + more)


def _short(minutes: float) -> str:
    """A time in minutes, to two digits where it counts."""
    return f"{minutes:.2g}" if minutes >= 0.05 else "under 0.1"


def minutes_text(minutes: float) -> str:
    """Returns a time in minutes, in words.

    >>> minutes_text(1.0), minutes_text(8.123)
    ('1 minute', '8.1 minutes')

    Args:
        minutes: Time in minutes.
    """
    text = f"{minutes:.0f}" if minutes >= 100 else f"{minutes:.2g}"
    return f"{text} minute" + ("" if text == "1" else "s")


def _percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.0f} %"


def choose_length(
    budget: Budget,
    seconds_per_step: float,
    *,
    steps: int | None = None,
    pretrained: bool = False,
    batch_size: int = 1,
    case_windows: int = 0,
) -> list[Choice]:
    """Returns the number of steps and of validations, and the regime.

    Args:
        budget: Time of the training.
        seconds_per_step: Seconds of a step, above 0.
        steps: Number of steps where it is decided already. Default ``None`` for what fits the time.
        pretrained: Whether as many steps of a pre-training come before. Default false.
        batch_size: Number of windows of a step, at least 1. Default 1.
        case_windows: Windows of a validation case, from 1. Default 0, where validation takes no time.
    """
    why = "given"
    if steps is None:
        steps = min(max(int(budget.each * 60 * TRAINING / seconds_per_step), FEWEST), 20_000)
        why = f"{_percent(TRAINING)} of {minutes_text(budget.each)}, {seconds_per_step:.2g} s a step as measured here; "
        why += "the fewest that there are" if steps == FEWEST else "the rest is for validation and reading"
    epochs = _epochs(steps)
    affordable = epochs if not case_windows else _validation_windows(steps, batch_size) // (2 * case_windows)
    worth, epochs = epochs, max(1, min(epochs, affordable))
    if why != "given":
        # Epochs are of one length.
        steps -= steps % epochs
    shared = "validations, shared out evenly" + (f"; {worth} would take too long" if epochs < worth else "")
    chosen = [Choice("iterations", steps, why), Choice("max_epochs", epochs, shared)]
    if pretrained:
        chosen.append(Choice("pretrain_iterations", steps, "as many steps of pre-training"))
        chosen.append(Choice("pretrain_epochs", epochs, "with as many validations"))
    return chosen + [Choice(name, value, "converged on the data of docs/gates.md") for name, value in REGIME.items()]


def _epochs(steps: int) -> int:
    """Number of validations that a training of so many steps is worth."""
    return min(20, max(FEWEST, steps // 50))


def _validation_windows(steps: int, batch_size: int) -> int:
    """Windows that validations may take in their share of the time, beside so many steps."""
    return int(VALIDATION / TRAINING * steps * batch_size / INFERENCE)


def choose_validation(data: Fingerprint, settled: Mapping[str, Any], *, resized: bool) -> list[Choice]:
    """Returns how many cases a validation measures, where all of them would take longer than the time for it.

    Args:
        data: Measures of the data.
        settled: Settings that are chosen so far, over those of ``train.json``.
        resized: Whether whole pictures are resized to one window.
    """
    epochs, windows = settled["max_epochs"], case_windows(data, settled, resized=resized)
    room = _validation_windows(settled["iterations"] // epochs, settled["batch_size"])
    cases = _held_out(data, settled)
    # One epoch has nothing to choose from.
    number = max(2 if epochs > 1 else 1, room // windows)
    if number >= cases:
        return []
    why = f"{cases} cases of {windows} window(s) would take longer than {_percent(VALIDATION)} of the training"
    return [Choice("val_cases", number, why)]


def choose_quality(minutes: float, seconds: float, data: Fingerprint, settled: Mapping[str, Any]) -> list[Choice]:
    """Returns on how many cases the Dice is measured that verdicts predict, if less than by default or of no use.

    Args:
        minutes: Time of the training, in minutes, above 0.
        seconds: Seconds of the inference of a case, above 0, see :func:`case_seconds`.
        data: Measures of the data.
        settled: Settings that are chosen so far, over those of ``train.json``.
    """
    wanted = settled["quality_cases"]
    if wanted > 0 and (kept := _share_of(data.num_patients, settled)) < MIN_PATIENTS:
        # Splits are drawn later, and may be given: the number stays.
        why = f"no expected Dice: {kept} patient(s) are kept from training, it takes {MIN_PATIENTS}"
        return [Choice("quality_cases", wanted, why)]
    each = INFERENCES * seconds
    number = int(QUALITY * minutes * 60 / each)
    if number >= min(wanted, _held_out(data, settled)):
        return []
    share = f"{_percent(QUALITY)} of {minutes_text(minutes)}"
    if number < MIN_PATIENTS:
        needed = minutes_text(MIN_PATIENTS * each / QUALITY / 60)
        work = f"{MIN_PATIENTS} cases of {INFERENCES} inferences of {seconds:.2g} s"
        why = f"no expected Dice: {work} take more than {share}; {needed} would do"
        return [Choice("quality_cases", 0, why)]
    why = f"cases for the expected Dice: {INFERENCES} inferences of {seconds:.2g} s each, in {share}"
    return [Choice("quality_cases", number, why)]


def share_out(
    minutes: float, seconds: float, data: Fingerprint, settled: Mapping[str, Any], *, trainings: int = 1
) -> Budget:
    """Returns how the time is shared out between training and what follows it.

    Args:
        minutes: Time of the whole, in minutes, above 0.
        seconds: Seconds of the inference of a case, above 0, see :func:`case_seconds`.
        data: Measures of the data.
        settled: Settings that are chosen so far, over those of ``train.json``, ``quality_cases`` among them.
        trainings: Number of trainings of the same length. Default 1.
    """
    held_out = _held_out(data, settled)
    trained = max(1, round((data.num_cases - held_out) * settled.get(LABELS, 1.0)))
    graded = _share_of(data.num_patients, settled) >= MIN_PATIENTS
    measured = INFERENCES * min(settled["quality_cases"], held_out) if graded else 0
    return Budget(minutes, (trained + held_out) * seconds / 60, measured * seconds / 60, trainings)


def case_seconds(windows: int, seconds_per_step: float, batch_size: int) -> float:
    """Returns the seconds of the inference of a case.

    Args:
        windows: Number of its windows, at least 1.
        seconds_per_step: Seconds of a training step, above 0.
        batch_size: Number of windows of a step, at least 1.
    """
    return windows * seconds_per_step / batch_size * INFERENCE


def case_windows(data: Fingerprint, settled: Mapping[str, Any], *, resized: bool) -> int:
    """Returns the number of windows of a median case; they overlap by a quarter.

    Args:
        data: Measures of the data.
        settled: Settings that are chosen so far, over those of ``train.json``.
        resized: Whether whole pictures are resized to one window.
    """
    if resized:
        return 1
    spacing = [target if target and target > 0 else own for target, own in _pairs(settled.get("spacing"), data.spacing)]
    sizes = [extent * own / step for extent, own, step in zip(data.size, data.spacing, spacing, strict=True)]
    sides = zip(sizes, settled["roi_size"], strict=True)
    return math.prod(max(1, math.ceil((extent - side) / (0.75 * side)) + 1) for extent, side in sides)


def _held_out(data: Fingerprint, settled: Mapping[str, Any]) -> int:
    """Cases that are kept for validation."""
    return _share_of(data.num_cases, settled)


def _share_of(number: int, settled: Mapping[str, Any]) -> int:
    """How many of a number of cases or patients are kept for validation."""
    return max(1, round(settled["val_fraction"] * number))


def _pairs(targets: Sequence[float] | None, own: Sequence[float]) -> list[tuple[float | None, float]]:
    """Every spacing with the one that it is brought to."""
    return list(zip([None] * len(own) if targets is None else targets, own, strict=True))
