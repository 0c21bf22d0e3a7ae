"""Evaluates case by case, and goes on when one fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from torch import Tensor

from ..runtime.files import fingerprint
from ..runtime.reasons import plain_reason

logger = logging.getLogger(__name__)

KEPT = ("image", "label", "case", "task", "group", "patient", "region", "in_distribution", "damage")


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
    batch size 1 over a :class:`CaseDataset`.
    """

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
