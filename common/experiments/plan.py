"""Lists the runs of an experiment: every arm on every data set, with every number of labels, seed and fold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from ..errors import ConfigError
from .arms import TOGETHER, Arm, check_words, datasets_of, join_datasets, overlays_of, settings_of, takes_part, words_of

OWN = ("bundle_root", "output_dir", "model_dir", "device", "resume", "seed", "num_folds", "fold")
"""Options of ``train.json`` that the experiment sets itself."""


@dataclass(frozen=True)
class Run:
    """One training and its evaluation.

    Args:
        dataset: Name of the data set; ``together`` for several that one network is trained on.
        arm: Name of the arm.
        seed: Seed of everything that the training draws.
        labeled: Share or number of labeled cases; ``None``, the default, where the experiment does not vary it.
        fold: Fold that it is tested on, from 0; ``None``, the default, without cross-validation.
        swept: Name of the setting that the experiment sweeps; empty, the default, without one.
        dose: Value of that setting, ``None`` where the sweep has that among its values; ``None``, the default, without
            one.
        overlays: Names of files laid over the configs, in this order. Default none.
        settings: Options of ``train.json``, the seed among them. Default none.
        after: Run whose weights this one starts from; ``None``, the default, for random ones.
    """

    dataset: str
    arm: str
    seed: int
    labeled: float | None = None
    fold: int | None = None
    swept: str = ""
    dose: float | None = None
    overlays: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    after: Run | None = None

    @property
    def together(self) -> bool:
        """Returns whether it trains on several data sets; each of its rows tells that of its case."""
        return self.dataset == TOGETHER

    @property
    def columns(self) -> dict[str, Any]:
        """Returns what all rows of the run say of it."""
        names = (*(() if self.together else ("dataset",)), "arm", "labeled", "seed", "fold", "swept", "dose")
        return {name: _cell(getattr(self, name)) for name in names} | {"dose": self._dose}

    @property
    def name(self) -> str:
        """Returns a name for logs and folders: dataset, arm and whatever else the experiment varies."""
        varied = {"labeled": self.labeled, self.swept: self._dose or None, "seed": self.seed, "fold": self.fold}
        parts = [f"{key}_{_cell(value)}" for key, value in varied.items() if value is not None]
        return re.sub(r"[^\w.+-]+", "_", "_".join([self.dataset, self.arm, *parts]))

    @property
    def _dose(self) -> str:
        """The dose as a cell of a table, empty without a sweep: a null that is swept is a dose as well."""
        return "none" if self.swept and self.dose is None else _cell(self.dose)


@dataclass(frozen=True)
class Plan:
    """A grid of runs.

    An arm with ``together`` trains one network on all data sets at once, or on those of its ``datasets``. An arm with
    ``chain``, names of data sets in order, trains on one after the other: from the second on, runs start from the
    weights of the one before and take the settings ``fine_tuned``.

    Args:
        datasets: Settings of every data set by its name: ``dataset_dir`` and what goes with it.
        arms: What makes an arm, by its name: names of overlay files, and settings.
        settings: Options of ``train.json`` that all runs share; nested ones are joined by ``.`` or ``#``. Default none.
        overlays: Names of files laid over the configs of all runs, below those of an arm. Default none.
        labeled: Option of ``train.json`` that says how much is labeled, with its values; empty, the default, to leave
            it as it is.
        seeds: Seeds of everything that a training draws. Default 0 alone.
        num_folds: Number of folds of a cross-validation by patient; 0, the default, for none.
        one_fold_per_seed: Whether the k-th seed is tested on the k-th fold alone, in place of on every fold. Default
            false.
        sweep: One option of ``train.json`` with its values, ``None`` perhaps among them, which every arm is run with in
            place of that of ``settings``; empty, the default, for none.

    Raises:
        ConfigError: When there is nothing to run, a name is not an axis, an option is set that is not the arm's, or
            data sets cannot be trained on together or in a chain.
    """

    datasets: Mapping[str, Mapping[str, Any]]
    arms: Mapping[str, Arm]
    settings: Mapping[str, Any] = field(default_factory=dict)
    overlays: Sequence[str] = ()
    labeled: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seeds: Sequence[int] = (0,)
    num_folds: int = 0
    one_fold_per_seed: bool = False
    sweep: Mapping[str, Sequence[float | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("datasets", "arms", "seeds"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; give at least one")
        for name in ("labeled", "sweep"):
            axis = getattr(self, name)
            if len(axis) > 1 or not all(axis.values()):
                raise ConfigError(f"{name} is {dict(axis)}; accepted is one option of train.json with its values")
        if TOGETHER in self.datasets:
            raise ConfigError(f"datasets has {TOGETHER!r}, which stands for several of them; give it another name")
        for name, arm in self.arms.items():
            check_words(name, arm, list(self.datasets))
        own = [("settings", self.settings), *((f"data set {name!r}", found) for name, found in self.datasets.items())]
        own += [(f"arm {name!r}", settings_of(arm)) for name, arm in self.arms.items()]
        own += [(f"arm {name!r}", words_of(arm).get("fine_tuned", {})) for name, arm in self.arms.items()]
        for where, settings in own:
            # What all runs share may be swept; what makes an arm or a data set may not.
            swept = set() if where == "settings" else set(self.sweep)
            taken = sorted(settings.keys() & {*OWN, *self.labeled, *swept})
            if taken:
                raise ConfigError(f"{where} sets {taken[0]!r}, which the experiment sets itself; leave it out")

    def require_arms(self, arms: Sequence[str], *, setting: str) -> None:
        """Makes sure that arms are named, and that there are such.

        Args:
            arms: Names of the arms.
            setting: Name of the setting that holds them, for the message.

        Raises:
            ConfigError: Naming those that there are.
        """
        missing = [arm for arm in arms if arm not in self.arms]
        if missing or not arms:
            raise ConfigError(f"{setting} names {missing or 'none'}; accepted are {', '.join(self.arms)}")

    def runs(self) -> list[Run]:
        """Returns all runs: those of one data set, one share of labels and one dose together, arm by arm."""
        return list(self._runs())

    def _runs(self) -> Iterator[Run]:
        (option, shares), (swept, doses) = _axis(self.labeled), _axis(self.sweep)
        for dataset, labeled, dose, name in product([*self.datasets, TOGETHER], shares, doses, self.arms):
            arm = self.arms[name]
            if dataset not in datasets_of(arm, list(self.datasets)):
                continue
            for number, seed in enumerate(self.seeds):
                for fold in self._folds(number):
                    if not takes_part(arm, {"labeled": labeled, "doses": dose, "seeds": seed, "folds": fold}):
                        continue
                    own = {key: value for key, value in ((option, labeled), (swept, dose)) if key} | {"seed": seed}
                    own |= {} if fold is None else {"num_folds": self.num_folds, "fold": fold}
                    yield self._run(Run(dataset, name, seed, labeled, fold, swept, dose, settings=own))

    def _run(self, place: Run) -> Run:
        """The run at a place of the grid, which has the settings of the place alone."""
        arm = self.arms[place.arm]
        settings = {**self.settings, **self._data(place, arm), **place.settings, **settings_of(arm)}
        chain, after = list(words_of(arm).get("chain", [place.dataset])), None
        position = chain.index(place.dataset)
        if position:
            after = self._run(replace(place, dataset=chain[position - 1]))
            settings |= words_of(arm).get("fine_tuned", {})
        # MONAI's command line would look for what a "#" nests in the experiment itself.
        settings = {key.replace(".", "#"): value for key, value in settings.items()}
        return replace(place, overlays=(*self.overlays, *overlays_of(arm)), settings=settings, after=after)

    def _data(self, place: Run, arm: Arm) -> Mapping[str, Any]:
        """What the data sets of a run set."""
        if not place.together:
            return self.datasets[place.dataset]
        return join_datasets({name: self.datasets[name] for name in words_of(arm).get("datasets", self.datasets)})

    def _folds(self, number: int) -> Sequence[int | None]:
        """The folds of the seed of this number."""
        if not self.num_folds:
            return [None]
        return [number % self.num_folds] if self.one_fold_per_seed else range(self.num_folds)


def _axis(axis: Mapping[str, Sequence[float | None]]) -> tuple[str, Sequence[float | None]]:
    """Name and values of an axis that may be empty."""
    return next(iter(axis.items()), ("", [None]))


def _cell(value: Any) -> str:
    """A value as a cell of a table: ``0.5``, ``2`` also for 2.0, empty for ``None``."""
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
