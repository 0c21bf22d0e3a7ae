"""Records class weights and terms of the loss over the epochs: metrics of the engine, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from ..data.cases import class_name
from ..figures import draw_curves
from ..handlers.terms import LossTerms
from ..runtime.distributed import is_main_process
from .step import CoTrainingStep
from .students import StudentStep


class ClassWeightHistory:
    """Adds the terms of the loss and the class weights to the metrics of every epoch, and draws the weights.

    The metrics are ``loss_<term>`` and ``weight_<a or b>/<class>``; handlers attached later (TensorBoard, the history)
    find them.

    Args:
        step: Iteration of the engine, whose class weights, if it has any, and terms are recorded.
        names: Names of the weights of A and B, for the picture.
        history: Object with ``epochs``, a list of the metrics of each epoch.
        output_dir: Folder of ``class_weights.png``.
        cases: Cases whose data sets tell the names of the classes. Default none.
        foreground_labels: Data set -> label values of the classes, in order. With ``None``, the default, label values
            are class indices.
    """

    def __init__(
        self,
        step: CoTrainingStep | StudentStep,
        names: Sequence[str],
        history: Any,
        output_dir: str,
        *,
        cases: Sequence[Mapping[str, Any]] = (),
        foreground_labels: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.step, self.names, self.history = step, tuple(names), history
        self.output_dir, self.cases, self.foreground_labels = Path(output_dir), cases, foreground_labels

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine, before the handlers that record or write its metrics."""
        LossTerms(self.step.terms, self.step.device).attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def __call__(self, engine: Engine) -> None:
        """Reads the weights after an epoch."""
        for network, weight in zip("ab", self.step.class_weights, strict=False):
            values = enumerate(weight.weight.tolist())
            engine.state.metrics |= {f"weight_{network}/{index}": value for index, value in values}

    def write(self, _engine: Engine) -> None:
        """Draws the weights of the networks over the epochs, on the main process only."""
        if not is_main_process() or not self.history.epochs or not self.step.class_weights:
            return
        groups = {
            f"network {network.upper()}: {name}": self._curves(f"weight_{network}/")
            for network, name, _ in zip("ab", self.names, self.step.class_weights, strict=False)
        }
        draw_curves(groups, self.output_dir / "class_weights.png", xlabel="epoch", ylabel="class weight")

    def _curves(self, prefix: str) -> dict[str, list[tuple[float, float]]]:
        """Class -> points of its weight over the epochs."""
        epochs = self.history.epochs
        numbers = [int(key.removeprefix(prefix)) for key in epochs[-1] if key.startswith(prefix)]
        return {
            f"class {class_name(self.cases, number, self.foreground_labels)}": [
                (epoch["epoch"], epoch[key]) for epoch in epochs if (key := f"{prefix}{number}") in epoch
            ]
            for number in numbers
        }
