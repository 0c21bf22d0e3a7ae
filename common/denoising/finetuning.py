"""Fine-tunes with care: the head first, the body at a lower rate; keeps denoisers of several doses as starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from ..engine.schedules import BODY
from ..errors import ConfigError
from ..handlers import TrainingProgress
from ..handlers.epochs import total_iterations
from ..runtime.distributed import is_main_process, unwrap
from ..runtime.options import read_flag
from ..runtime.weights import save_atomically
from .head import denoiser_of


def finetuning_groups(
    network: nn.Module,
    learning_rate: float,
    *,
    body_rate: float | None = None,
    head_share: float | None = None,
    pretrained: bool | str = True,
    head: str = "head",
) -> list[Any]:
    """Returns the parameters of a network as an optimizer takes them: head and body apart, where they learn apart.

    Args:
        network: Network, perhaps in a data-parallel wrapper.
        learning_rate: Learning rate of the head, at least 0.
        body_rate: Rate of the body as a factor of that of the head, in (0, 1]. Default none: the same rate.
        head_share: Share of the training in which the body rests, see :class:`IterationSchedule`. Default none.
        pretrained: Whether the body has learned before, true by default. If not, there is nothing to spare: all learns
            alike. So it does where the network is guided by a denoiser, which is what has learned, and learns no more.
        head: Name of the module that is the head; ``head`` by default.

    Raises:
        ConfigError: When ``body_rate`` is out of range.
    """
    if body_rate is not None and not 0 < body_rate <= 1:
        raise ConfigError(f"body_rate is {body_rate}; accepted are factors above 0, up to 1, or null for the same rate")
    named = [(name, part) for name, part in unwrap(network).named_parameters() if part.requires_grad]
    learned = read_flag(pretrained, "pretrained") and denoiser_of(unwrap(network)) is unwrap(network)
    if not learned or (body_rate is None and head_share is None):
        return [part for _, part in named]
    own, rest = ([part for name, part in named if name.startswith(f"{head}.") == is_head] for is_head in (True, False))
    return [{"params": own}, {"params": rest, "lr": learning_rate * (body_rate or 1.0), BODY: True}]


def denoiser_name(iteration: int | None) -> str:
    """Returns the name of the file of a denoiser: the best one with ``None``, or that of an iteration."""
    return "denoiser.pt" if iteration is None else f"denoiser_{iteration}.pt"


class KeepDenoisers:
    """Writes the weights of a denoiser after given iterations, each a start for fine-tuning.

    So one pre-training gives the curve over its length. Where the average of the weights is validated, it is written.

    Args:
        network: Denoiser, without a data-parallel wrapper.
        progress: Progress of the pre-training, which knows the average.
        save_dir: Folder of the files ``denoiser_<iteration>.pt``.
        pretrain_checkpoints: Iterations after which weights are written, from 1. Default none.

    Raises:
        ConfigError: When an iteration is below 1, or, as training starts, beyond its length.
    """

    def __init__(
        self,
        network: nn.Module,
        progress: TrainingProgress,
        save_dir: str,
        pretrain_checkpoints: Sequence[int] | None = None,
    ) -> None:
        self.iterations = list(pretrain_checkpoints or [])
        if any(iteration < 1 for iteration in self.iterations):
            raise ConfigError(f"pretrain_checkpoints is {self.iterations}; accepted are iterations from 1")
        self.network, self.progress, self.save_dir = network, progress, Path(save_dir)

    def attach(self, engine: Engine) -> None:
        """Attaches to the trainer of the denoiser."""
        if self.iterations:
            engine.add_event_handler(Events.STARTED, self._require_iterations)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _require_iterations(self, engine: Engine) -> None:
        """Raises before the first iteration where one of those whose weights are kept would never come."""
        total = total_iterations(engine)
        if max(self.iterations) > total:
            raise ConfigError(
                f"pretrain_checkpoints is {self.iterations}, but pre-training has {total} iterations; train longer, or "
                f"name numbers up to {total}"
            )

    def __call__(self, engine: Engine) -> None:
        """Writes the weights where it is time, on the main process only."""
        if engine.state.iteration in self.iterations and is_main_process():
            average = self.progress.average
            kept: nn.Module = self.network if average is None else average.ema.module
            save_atomically(unwrap(kept).state_dict(), self.save_dir / denoiser_name(engine.state.iteration))
