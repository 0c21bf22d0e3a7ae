"""Evaluates case by case, and goes on when one fails."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ignite.engine import Events
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from torch import Tensor

from ..runtime.files import fingerprint
from ..runtime.progress import Progress, image_called, listed
from ..runtime.reasons import plain_reason

logger = logging.getLogger(__name__)

KEPT = ("image", "label", "case", "task", "group", "patient", "region", "modality", "in_distribution", "damage")


class CaseDataset(Dataset):
    """Loads cases; one that cannot be loaded becomes ``{"case", "error"}`` in place of stopping the run.

    Args:
        data: Cases, each a dictionary with ``case``, its name, and the paths of its files.
        transform: Transform that loads and prepares a case. With ``None``, the default, cases stay as they are.
        keep: Keys of a case that go on to the engine; default :data:`KEPT`.
        report: Report of a run that may resume, by default none. A case for which its ``is_done`` is true becomes
            ``{"case", "done"}`` and is not loaded. Others get the ``fingerprint`` of their files, from before they are
            loaded.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[..., Any] | None = None,
        keep: Sequence[str] = KEPT,
        report: Any = None,
    ) -> None:
        super().__init__(data, transform)
        self.keep, self.report = tuple(keep), report

    def __getitem__(self, index: Any) -> Any:
        """Returns one prepared case."""
        case, more = self.data[index], {}
        if self.report is not None:
            if self.report.is_done(case):
                return {"case": case["case"], "done": True}
            more["fingerprint"] = fingerprint(case["image"])
        try:
            loaded = super().__getitem__(index)
        except Exception as error:  # whatever a file can do to a reader must not stop the other cases
            logger.debug("loading failed", exc_info=True)
            described = {key: case[key] for key in self.keep if key in case and key not in ("image", "label")}
            return described | {"error": plain_reason(error)}
        return {key: loaded[key] for key in self.keep if key in loaded} | more


class CaseEvaluator(SupervisedEvaluator):
    """MONAI's evaluator for one case at a time; a case that fails is reported and the others go on.

    After every iteration ``state.batch`` and ``state.output`` are lists of one dictionary; that of a failed case holds
    ``error``, one line, and that of a case that an earlier run has done holds ``done``. Used with a data loader of
    batch size 1 over a :class:`CaseDataset`. A run shows how many cases are done, and what was found.
    """

    def run(self, global_epoch: int = 1) -> None:
        """Evaluates all cases.

        Args:
            global_epoch: Number of the training's epoch, from 1. Default 1.
        """
        found = Counter[str]()
        with Progress("segmentation", len(self.data_loader), "cases") as progress:  # type: ignore[arg-type]
            count = partial(self._count, progress, found)
            with self.add_event_handler(Events.ITERATION_COMPLETED, count):
                super().run(global_epoch)

    @staticmethod
    def _count(progress: Progress, found: Counter[str], engine: Any) -> None:
        """Counts a case and what was found of it."""
        output = engine.state.output[0]
        found.update(kind for kind in (kind_of(output),) if kind)
        note = listed(*(f"{number} {kind}" for kind, number in sorted(found.items())))
        progress.advance(note=note, passed_over="done" in output)

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> Any:
        """One case: network and postprocessing, which includes saving."""
        described = {
            key: value[0].item() if isinstance(value[0], Tensor) else value[0]
            for key, value in batchdata.items()
            if key not in ("image", "label")
        }
        if "done" in batchdata:
            engine.state.batch, engine.state.output = [described], [{"done": True}]
            return engine.state.output
        if "error" in batchdata:
            return self._fail(engine, described, str(described["error"]))
        try:
            with image_called(str(described.get("case", "an image"))):
                return super()._iteration(engine, batchdata)
        except Exception as error:  # as for loading: one scan must not cost the others their result
            logger.debug("case failed", exc_info=True)
            reason, name = plain_reason(error), f"case {described.get('case', '')!r}"
            return self._fail(engine, described, reason if name in reason else f"{name}: {reason}")

    def _fail(self, engine: Any, described: dict[str, Any], reason: str) -> Any:
        """Records a failed case as the iteration's result."""
        logger.error("%s", reason)
        engine.state.batch = [described]
        engine.state.output = [{"error": reason}]
        return engine.state.output


def kind_of(output: Mapping[str, Any]) -> str:
    """Returns what a line on progress counts of a case; nothing where there is nothing to tell.

    Args:
        output: Output of a :class:`CaseEvaluator` on one case.
    """
    if "error" in output:
        return "failed"
    if "done" in output:
        return "done before"
    return "out of distribution" if (output.get("result") or {}).get("is_ood") else ""
