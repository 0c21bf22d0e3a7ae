"""Runs work in stages: each writes what the next one reads, and is skipped when that is there already.

A stage that is killed leaves no record, so a restarted run repeats that stage alone.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, MissingDataError
from .digests import settings_digest
from .distributed import is_main_process, wait_for_all
from .files import write_json

logger = logging.getLogger(__name__)


def file_digest(path: str | Path) -> str:
    """Returns the SHA-256, in hexadecimal, of a file's content, or of those of all files of a folder."""
    place = Path(path)
    if place.is_dir():
        return settings_digest({file.name: file_digest(file) for file in sorted(place.iterdir())})
    with open(place, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cases_digest(cases: Sequence[Mapping[str, Any]]) -> str:
    """Returns the SHA-256, in hexadecimal, of a list of cases: of their files' content, and what else is said of them.

    Where the files lie does not matter; the order of the cases does, since seeds draw by number.

    Args:
        cases: Cases with ``image`` and perhaps ``label`` and ``patient_images``: a path or a list of paths.
    """
    described = []
    # Cases of one patient name the same files.
    digest = functools.cache(file_digest)
    for case in cases:
        files = {key: case[key] for key in ("image", "label", "patient_images") if key in case}
        paths = {key: [value] if isinstance(value, str | Path) else list(value) for key, value in files.items()}
        described.append({**case, **{key: [digest(path) for path in paths[key]] for key in files}})
    return settings_digest(described)


class Stages:
    """Runs stages whose inputs have changed, or whose output is missing, and skips the others with a line in the log.

    What a stage was made from is recorded in ``<folder>/<stage>.json``, written last: a stage without a record is not
    done. The record holds digests of inputs and outputs. So a stage runs again when an input changes, or when somebody
    has changed or removed its output.

    Args:
        folder: Folder of the records.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def run(
        self,
        name: str,
        work: Callable[[], Any],
        *,
        inputs: Mapping[str, str],
        outputs: Sequence[str | Path],
        before: Callable[[], Any] | None = None,
    ) -> bool:
        """Does the work of a stage, unless it is done; called by every process of a distributed run.

        Args:
            name: Name of the stage, which names its record.
            work: Function that writes every output, atomically.
            inputs: Digests, by name, of all that the output depends on: data, weights, settings.
            outputs: Paths of the files that the stage writes.
            before: Function called when there is work to do, before anything of an earlier run is given up. It may
                refuse the work by an error. Nothing is called by default.

        Returns:
            Whether the work was done now.

        Raises:
            MissingDataError: When the work did not write an output.
            OutputError: When the record cannot be written.
        """
        changed = self._changes(name, inputs, outputs)
        # Every process has looked before any of them changes a file.
        wait_for_all()
        if not changed:
            logger.info("stage %s: skipped, its output exists for the same inputs", name)
            return False
        logger.info("stage %s: starts (%s)", name, ", ".join(changed))
        start = time.perf_counter()
        if before is not None:
            before()
            # Every process has agreed before one of them removes the record.
            wait_for_all()
        if is_main_process():
            self._record(name).unlink(missing_ok=True)
        work()
        wait_for_all()
        if is_main_process():
            missing = [str(path) for path in outputs if not Path(path).is_file()]
            if missing:
                raise MissingDataError(f"stage {name} has not written {missing[0]}; run it again")
            digests = {self._key(path): file_digest(path) for path in outputs}
            write_json({"inputs": dict(inputs), "outputs": digests}, self._record(name))
        wait_for_all()
        logger.info("stage %s: done in %.0f s", name, time.perf_counter() - start)
        return True

    def require(self, name: str, *, inputs: Mapping[str, str], outputs: Sequence[str | Path]) -> None:
        """Makes sure that a stage is done, for a later one that is run alone.

        Args:
            name: Name of the stage.
            inputs: Digests by name, as for :meth:`run`.
            outputs: Paths of files, as for :meth:`run`.

        Raises:
            MissingDataError: Naming what is missing or changed.
        """
        changed = self._changes(name, inputs, outputs)
        if changed:
            raise MissingDataError(
                f"stage {name} is not done for these inputs ({', '.join(changed)}); run it first, with the same options"
            )

    def _changes(self, name: str, inputs: Mapping[str, str], outputs: Sequence[str | Path]) -> list[str]:
        """Why a stage must run, in words; nothing when it is done."""
        try:
            record = json.loads(self._record(name).read_text(encoding="utf-8"))
            before, made = dict(record["inputs"]), dict(record["outputs"])
        except (OSError, ValueError, KeyError, TypeError):
            return ["no record of an earlier run"]
        names = sorted(before.keys() | inputs.keys())
        changes = [f"{key} changed" for key in names if before.get(key) != inputs.get(key)]
        for path in outputs:
            if not Path(path).is_file():
                changes.append(f"{Path(path).name} is missing")
            elif made.get(self._key(path)) != file_digest(path):
                changes.append(f"{Path(path).name} is not the one that this stage wrote")
        return changes

    def _record(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _key(self, path: str | Path) -> str:
        """What a record calls a file: where it lies from the record, so that both may be moved together."""
        return Path(os.path.relpath(path, self.folder)).as_posix()


@dataclass(frozen=True)
class Step:
    """Work that is skipped or done as a whole; arguments as for :meth:`Stages.run`.

    Args:
        name: Name of the work in the log and in the records.
        stages: Holds the record.
        work: Writes every output.
        inputs: Name -> digest of what the output depends on.
        outputs: Files that the work writes.
        before: Called before the work, if there is any; may refuse it.
    """

    name: str
    stages: Stages
    work: Callable[[], Any]
    inputs: Mapping[str, str]
    outputs: Sequence[Path]
    before: Callable[[], Any] | None = None


def run_stages(stage: str | None, order: Sequence[str], steps: Callable[[str], Iterable[Step]]) -> None:
    """Runs all stages, or one whose predecessors are done.

    Args:
        stage: Name of the stage, ``None`` for all.
        order: Names of all stages, the first one first.
        steps: Gives the steps of a stage; the inputs of each are read when the one before is done.

    Raises:
        ConfigError: When there is no such stage.
        MissingDataError: When a stage before the one that is run alone is not done.
    """
    if stage is not None and stage not in order:
        raise ConfigError(f"stage is {stage!r}; accepted are {', '.join(order)}")
    for name in order[: len(order) if stage is None else order.index(stage) + 1]:
        for step in steps(name):
            if stage in (None, name):
                step.stages.run(step.name, step.work, inputs=step.inputs, outputs=step.outputs, before=step.before)
            else:
                step.stages.require(step.name, inputs=step.inputs, outputs=step.outputs)
