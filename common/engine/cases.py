"""Evaluation that goes on when a case fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from torch import Tensor

from ..runtime.reasons import error_line

logger = logging.getLogger(__name__)

KEPT = ("image", "label", "case", "task", "group", "patient", "region", "in_distribution", "damage")


class CaseDataset(Dataset):
    """Loads cases; one that cannot be loaded becomes ``{"case", "error"}`` in place of stopping the run.

    Args:
        data: list of cases.
        transform: what loads and prepares a case.
        keep: keys that go on to the engine.
    """

    def __init__(
        self, data: Sequence[dict[str, Any]], transform: Callable[..., Any] | None = None, keep: Sequence[str] = KEPT
    ) -> None:
        super().__init__(data, transform)
        self.keep = tuple(keep)

    def __getitem__(self, index: Any) -> Any:
        """Returns one prepared case."""
        case = self.data[index]
        try:
            loaded = super().__getitem__(index)
        except Exception as error:  # whatever a file can do to a reader must not stop the other cases
            logger.debug("loading failed", exc_info=True)
            described = {key: case[key] for key in self.keep if key in case and key not in ("image", "label")}
            return described | {"error": error_line(error)}
        return {key: loaded[key] for key in self.keep if key in loaded}


class CaseEvaluator(SupervisedEvaluator):
    """MONAI's evaluator for one case at a time; a case that fails is reported and the others go on.

    After every iteration ``state.batch`` and ``state.output`` are lists of one dictionary; that of a failed case holds
    ``error``, one line. Used with a data loader of batch size 1 over a :class:`CaseDataset`.
    """

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> Any:
        """One case: network and postprocessing, which includes saving."""
        described = {
            key: value[0].item() if isinstance(value[0], Tensor) else value[0]
            for key, value in batchdata.items()
            if key not in ("image", "label")
        }
        if "error" in batchdata:
            return self._fail(engine, described, str(described["error"]))
        try:
            return super()._iteration(engine, batchdata)
        except Exception as error:  # as for loading: one scan must not cost the others their result
            logger.debug("case failed", exc_info=True)
            reason, name = error_line(error), f"case {described.get('case', '')!r}"
            return self._fail(engine, described, reason if name in reason else f"{name}: {reason}")

    def _fail(self, engine: Any, described: dict[str, Any], reason: str) -> Any:
        """Records a failed case as the iteration's result."""
        logger.error("%s", reason)
        engine.state.batch = [described]
        engine.state.output = [{"error": reason}]
        return engine.state.output
