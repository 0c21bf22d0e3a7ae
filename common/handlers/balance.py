"""Measures how hard every term of a loss pulls at the weights that all terms share."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from ..errors import ConfigError
from ..runtime.distributed import is_main_process
from .progress import TrainingProgress

logger = logging.getLogger(__name__)

TENFOLD = 10.0
"""A term whose gradient is so many times the segmentation's is warned of."""


def gradient_norms(terms: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> dict[str, Tensor]:
    """Returns the norm of the gradient that each term of a loss has on shared weights.

    Yu et al., *Gradient Surgery for Multi-Task Learning*, NeurIPS 2020, and the like compare such norms: a term whose
    gradient is a hundred times the segmentation's is no auxiliary task.

    Nothing is accumulated in the parameters, so data-parallel wrappers, which wait for that, do not notice.

    Args:
        terms: Name -> scalar loss, with its weight; the graph is kept, so that the sum can be learned from afterwards.
        parameters: Weights that all terms share, such as the encoder's.

    Returns:
        Name -> Euclidean norm over all parameters, a scalar in float32 on their device; 0 for a term that does not
        reach them, and for all terms where the parameters are frozen.
    """
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    norms = {}
    for name, term in terms.items():
        norms[name] = torch.zeros((), device=term.device)
        if not term.requires_grad or not learned:
            continue
        # Only the forward pass may be autocast; losses of images with metadata carry metadata.
        with torch.autocast(term.device.type, enabled=False):
            loss = term.as_subclass(torch.Tensor)
            gradients = torch.autograd.grad(loss, learned, retain_graph=True, allow_unused=True)
        squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
        if squares:
            norms[name] = torch.stack(squares).sum().sqrt()
    return norms


class GradientBalance:
    """Records :func:`gradient_norms` in the first iteration and every ``balance_interval`` iterations.

    They become a line of the log, a TensorBoard curve ``gradient_norm/<term>``, a panel of ``training.png``, and
    ``gradient_norms`` in ``metrics.json``. A warning names a term when it first has ten times the gradient of the
    segmentation, which is the first term. A loss of one term has nothing to compare.

    An iteration gives its terms, see :func:`~..engine.iteration.train_on_terms`. Where it does not, the trainer's loss
    may have a method ``terms`` of prediction and target; without it, the loss is one term.

    Measuring takes one more backward pass for each term and changes nothing in the training; iterations in between cost
    nothing. Of several processes, each measures its own part of the batch, and the main one records.

    Args:
        parameters: Weights that all terms share, those of the network itself, not of a copy.
        progress: Record of the training, whose history and TensorBoard events they are added to.
        balance_interval: Iterations between measurements, from 0; 0 measures in the first iteration alone. Default
            500.

    Raises:
        ConfigError: When the interval is below 0.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], progress: TrainingProgress, *, balance_interval: int = 500
    ) -> None:
        if balance_interval < 0:
            raise ConfigError(
                f"balance_interval is {balance_interval}; accepted is a number of iterations, or 0 for the first alone"
            )
        self.parameters, self.progress, self.balance_interval = list(parameters), progress, balance_interval

    def attach(self, engine: Engine) -> None:
        """Attaches to MONAI's trainer, between the loss and its backward pass."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Measures, where it is time."""
        iteration, interval = engine.state.iteration, self.balance_interval
        if iteration != 1 and (interval == 0 or iteration % interval):
            return
        terms = _find_terms(engine)
        if len(terms) < 2:
            return
        norms = gradient_norms(terms, self.parameters)
        # One wait for the device, not one for each term.
        values = torch.stack(list(norms.values())).tolist()
        self._record(iteration, dict(zip(norms, values, strict=True)))

    def _record(self, iteration: int, norms: Mapping[str, float]) -> None:
        """Adds norms to history, TensorBoard and log."""
        history = self.progress.history
        before = {name for earlier in history.gradient_norms for name in outweighing(earlier)}
        history.gradient_norms.append({"iteration": iteration, **norms})
        if not is_main_process():
            return
        for name, norm in norms.items():
            self.progress.log.board.add_scalar(f"gradient_norm/{name}", norm, iteration)
        text = ", ".join(f"{name} {norm:.3g}" for name, norm in norms.items())
        logger.info("iteration %d: gradient norms on the shared weights: %s", iteration, text)
        for name, ratio in outweighing(norms).items():
            if name not in before:
                logger.warning(
                    "iteration %d: the gradient of %s is %.3g times that of %s: training follows it, not the "
                    "segmentation; lower its weight",
                    iteration, name, ratio, next(iter(norms)),
                )  # fmt: skip


def outweighing(norms: Mapping[str, float]) -> dict[str, float]:
    """Returns the terms with at least ten times the gradient of the first, and how many times it is.

    Args:
        norms: Name -> gradient norm; ``iteration`` is no term. With a first norm of 0, there is nothing to outweigh.

    Example:
        >>> outweighing({"iteration": 1, "segmentation": 0.5, "contrastive": 20.0, "classification": 1.0})
        {'contrastive': 40.0}
    """
    (_, first), *others = ((name, norm) for name, norm in norms.items() if name != "iteration")
    return {name: norm / first for name, norm in others if first > 0 and norm / first >= TENFOLD}


def _find_terms(engine: Any) -> Mapping[str, Tensor]:
    """The terms of an iteration, with their graph; none where the loss is a single one."""
    given: Mapping[str, Tensor] | None = getattr(engine.state, "terms", None)
    if given is not None:
        return given
    split = getattr(engine.loss_function, "terms", None)
    return {} if split is None else split(engine.state.output["pred"], engine.state.output["label"])
