"""Runs one run of an experiment: a bundle's ``train.json``, then its ``evaluate.json``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import monai.bundle
from monai.bundle import ConfigParser

from ..errors import ConfigError, MissingDataError
from ..runtime.digests import settings_digest
from ..runtime.files import write_json
from ..runtime.knobs import WORDS, plain_keys
from ..runtime.model_settings import with_defaults
from ..runtime.nearest import did_you_mean
from ..runtime.options import has_option
from ..runtime.run_settings import PLACES
from ..runtime.stages import file_digest
from .plan import Run

RECORD, ATTEMPT, EVALUATION, CHECKPOINT = "run.json", "attempt.json", "evaluation", "checkpoint.pt"

STARTING = "initial_weights"
"""Option of ``train.json`` that names the weights that a run starts from."""

UNPLANNED = {"planned": False}
"""An experiment says all that its runs do; a plan would depend on the speed of the machine."""

DATA = ("_dir", "_file", "_weights")
"""Ends of the names of options whose value is a file or folder; its content counts, not its place."""


@dataclass(frozen=True)
class Bundle:
    """The bundle whose configs are run.

    Args:
        root: Folder of the bundle.
        shared: Options of ``train.json`` that name a folder of stages, each with the options in which runs that share
            this folder may differ. Those decide over later stages alone. Default none.
        train_id: Id of ``train.json`` that is run. Default ``run``.
        evaluate_id: Id of ``evaluate.json`` that is run. Default ``run``.
        measured: Files below the folder of a run whose ``measures`` become its rows. Default
            ``evaluation/metrics.json``.
        split_part: Part of the split that runs are measured on: ``val`` where settings are chosen. Default that of
            ``evaluate.json``, the test part.
    """

    root: str
    shared: Mapping[str, Sequence[str]] = field(default_factory=dict)
    train_id: str = "run"
    evaluate_id: str = "run"
    measured: Sequence[str] = (f"{EVALUATION}/metrics.json",)
    split_part: str | None = None

    def files(self, name: str, overlays: Sequence[str]) -> list[str]:
        """Returns the paths of a config and of what is laid over it.

        Raises:
            ConfigError: When there is no such overlay.
        """
        folder = Path(self.root) / "configs"
        for overlay in overlays:
            if not (folder / overlay).is_file():
                raise ConfigError(
                    f"overlays names {overlay!r}, but there is no such file in {folder}; give names of these"
                )
        return [str(folder / file) for file in (f"{name}.json", *overlays)]

    def require_options(self, run: Run) -> None:
        """Makes sure that a config has every option that a run sets: others would be left out without a word.

        Raises:
            ConfigError: When an option does not exist, naming the first one and the most similar one that does.
        """
        files = self.files("train", run.overlays)
        # Some options are of the evaluation alone.
        config, laid = _read([*self.files("evaluate", ()), *files]), _read(files[1:])
        for option in run.settings:
            if not _takes(config, laid, option) or not has_option(config, option):
                hint = did_you_mean(option, config)
                raise ConfigError(f"arm {run.arm!r} sets {option!r}, which is not an option of train.json{hint}")

    def digests(self, run: Run) -> dict[str, str]:
        """Returns what tells a run from others on any machine: digests of its ``settings`` and of its ``data``.

        Settings are the plain values of both configs, what overlays say, and what the run sets. An option that is off,
        ``null`` or false, counts as absent, so that rows outlive new options that are off. Code does not count. Weights
        of a run before it are told by the digests of that run.

        Raises:
            MissingDataError: When there are no such data.
        """
        settings = self.decisive_settings(run)
        data = {key: value for key, value in settings.items() if key.endswith(DATA)}
        rest = {key: _uniform(value) for key, value in settings.items() if key not in data}
        contents: dict[str, Any] = {key: _contents(value, key) for key, value in data.items()}
        contents |= {} if run.after is None else {STARTING: self.digests(run.after)}
        return {"settings": settings_digest(rest)[:12], "data": settings_digest(contents)[:12]}

    def decisive_settings(self, run: Run) -> dict[str, Any]:
        """Returns every setting that decides over the result of a run, paths of data included."""
        files = [self.files(name, run.overlays) for name in ("evaluate", "train")]
        configs = [_read(names[:1]) for names in files]
        plain = {key: config[key] for config in configs for key in plain_keys(config)}
        part = {} if self.split_part is None else {"split_part": self.split_part}
        decisive = plain | _read(files[1][1:]) | dict(run.settings) | part
        left_out = {WORDS, *PLACES, *UNPLANNED, "minutes", *self.shared}
        off = (None, False)
        return {k: v for k, v in decisive.items() if k not in left_out and not any(v is value for value in off)}

    def parse(self, name: str, run: Run, options: Mapping[str, Any]) -> ConfigParser:
        """Returns the parser of a config with a run's overlays, and with those of the options that it has.

        Args:
            name: Name of the config, ``train`` or ``evaluate``.
            run: Run whose overlays are laid over it.
            options: Options, of which the config may lack some.
        """
        files = self.files(name, run.overlays)
        parser = ConfigParser(ConfigParser.load_config_files(files))
        for key, value in _taken(files, options).items():
            parser[key] = value
        return parser

    def run_config(self, name: str, run_id: str, run: Run, options: Mapping[str, Any]) -> None:
        """Runs a config with those of the options that it has; :meth:`require_options` has checked the rest.

        Args:
            name: Name of the config, ``train`` or ``evaluate``.
            run_id: Id of the config that is run.
            run: Run whose overlays are laid over it.
            options: Options, of which the config may lack some.

        Raises:
            BundleError: What the run raises.
        """
        if self.root not in sys.path:
            # A process that was started for a job has never run a config of the bundle.
            sys.path.insert(0, self.root)
        files = self.files(name, run.overlays)
        monai.bundle.run(run_id=run_id, config_file=files, logging_file=False, **_taken(files, options))

    def shared_folders(self, run: Run, root: Path) -> dict[str, str]:
        """Returns option -> folder below a root; runs that agree in all that decides over its content have the same."""
        settings = {key: _uniform(value) for key, value in self.decisive_settings(run).items()}
        return {
            option: str(
                root / f"{option}_{settings_digest({k: v for k, v in settings.items() if k not in differing})[:12]}"
            )
            for option, differing in self.shared.items()
        }


@dataclass(frozen=True)
class BundleJob:
    """Trains and evaluates; made to be sent to a process of its own.

    Args:
        bundle: Bundle that is trained and evaluated.
        run: Run of the plan that is done.
        folder: Folder of its results.
        places: Options of ``train.json`` that change no row, such as ``device``.
    """

    bundle: Bundle
    run: Run
    folder: str
    places: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether the work was done before."""
        return (Path(self.folder) / RECORD).is_file()

    def __call__(self) -> None:
        """Trains, going on from a checkpoint where there is one, evaluates and records the time that it took.

        Raises:
            BundleError: What training and evaluation raise.
        """
        before, start = self._earlier_attempts(), time.perf_counter()
        own = {"output_dir": self.folder, "model_dir": f"{self.folder}/models", "resume": self._begun()}
        write_json({"before": before}, Path(self.folder) / ATTEMPT)
        train = {**self.run.settings, **self.places, **own}
        self.bundle.run_config("train", self.bundle.train_id, self.run, train)
        # Seeds differ in what is trained, not in the cases that it is tested on; phantoms for tests are made apart.
        test = {key: value for key, value in train.items() if key != "seed"} | {"output_dir": self._evaluation}
        test |= {"split_file": f"{self.folder}/split.json"} if self.run.settings.get("dataset_dir") else {}
        test |= {} if self.bundle.split_part is None else {"split_part": self.bundle.split_part}
        self.bundle.run_config("evaluate", self.bundle.evaluate_id, self.run, test)
        write_json({"seconds": round(before + time.perf_counter() - start, 1)}, Path(self.folder) / RECORD)

    @property
    def _evaluation(self) -> str:
        return f"{self.folder}/{EVALUATION}"

    def _begun(self) -> bool:
        """Whether an earlier attempt left a checkpoint, of the run itself or of a stage that it shares."""
        if not (Path(self.folder) / ATTEMPT).is_file():
            # What another run left of a shared stage is made anew: the two may differ in what a checkpoint compares.
            return False
        folders = [self.folder, *(self.places[option] for option in self.bundle.shared)]
        return any(path for folder in folders for path in Path(folder).rglob(CHECKPOINT))

    def _earlier_attempts(self) -> float:
        """Seconds of attempts that were killed, up to their last checkpoint: what came after is done again."""
        attempt, checkpoint = Path(self.folder) / ATTEMPT, Path(self.folder) / CHECKPOINT
        if not (attempt.is_file() and checkpoint.is_file()):
            return 0.0
        before = float(json.loads(attempt.read_text(encoding="utf-8"))["before"])
        return before + max(0.0, checkpoint.stat().st_mtime - attempt.stat().st_mtime)

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows of the finished work: ``iterations``, ``seconds``, ``case``, ``metric`` and ``value``.

        Rows of a run on several data sets have ``dataset`` as well, and none is of all of them together.

        Raises:
            MissingDataError: When a file of results is missing or holds no measures.
        """
        history, record = Path(self.folder) / "metrics.json", _load(Path(self.folder) / RECORD)
        epochs = _load(history)["epochs"] if history.is_file() else [{"iteration": 0}]
        described = {"iterations": epochs[-1]["iteration"], "seconds": record["seconds"]}
        rows = []
        for dataset, measures in self._measures():
            for metric, values in measures.items():
                row = described | dataset | {"metric": metric}
                rows += [row | {"case": case, "value": value} for case, value in values.items()]
        if not rows:
            raise MissingDataError(f"no measures in {self.folder}, {', '.join(self.bundle.measured)}; label test cases")
        return rows

    def _measures(self) -> Iterator[tuple[dict[str, str], Mapping[str, Mapping[str, float]]]]:
        """What the files of results tell: metric -> case -> value, with the data set of a run on several."""
        for file in self.bundle.measured:
            content = _load(Path(self.folder) / file)
            if self.run.together:
                yield from (({"dataset": name}, found) for name, found in content.get("measures_by_group", {}).items())
            else:
                yield {}, content.get("measures", {})


def weights_in(folder: str | Path) -> Path:
    """Returns the file of the weights that a run keeps.

    Args:
        folder: Folder of the run's results.
    """
    return Path(folder, "models", "model.pt")


def _load(path: Path) -> dict[str, Any]:
    """The content of a file of results."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise MissingDataError(f"{path} cannot be read ({error}); remove its folder and run again") from error


def _read(files: Sequence[str]) -> dict[str, Any]:
    """The content of config files, those of later ones in place of those of earlier ones."""
    content: dict[str, Any] = {}
    for file in files:
        content |= with_defaults(ConfigParser.load_config_file(file))
    return content


def _takes(config: Mapping[str, Any], laid: Mapping[str, Any], option: str) -> bool:
    """Whether an option is to be set: a nested one exists in what it is nested in, unless an overlay replaced that."""
    outer, _, inner = option.partition("#")
    if inner and outer in laid:
        return inner.split("#")[0] in laid[outer]
    return outer in config


def _taken(files: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that a config with its overlays has."""
    config, laid = _read(files), _read(files[1:])
    return {key: value for key, value in (UNPLANNED | dict(options)).items() if _takes(config, laid, key)}


def _uniform(value: Any) -> Any:
    """A value with all numbers as floats: a command line gives 1 for 1.0."""
    if isinstance(value, Mapping):
        return {key: _uniform(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_uniform(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _contents(value: Any, option: str) -> Any:
    """Digests of the files and folders that an option names."""
    if isinstance(value, list | tuple):
        return [_contents(item, option) for item in value]
    path = Path(str(value)).absolute()
    if not path.exists():
        raise MissingDataError(f"{option} names {value}, which does not exist; give a file or folder")
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return _content_digest(path, tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@cache
def _content_digest(path: Path, _state: Hashable) -> str:
    """The digest of a file or folder, taken once for all runs while nothing is changed."""
    return file_digest(path)
