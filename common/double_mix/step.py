"""Runs one iteration of co-training on labeled and unlabeled images.

Zhang et al., *Double-Mix Pseudo-Label Framework: Enhancing Semi-Supervised Segmentation on Category-Imbalanced CT
Volumes*, Int. J. Computer Assisted Radiology and Surgery. Cross pseudo supervision: Chen et al., CVPR 2021. Mean
teacher: Tarvainen and Valpola, NeurIPS 2017. DHC: Wang and Li, MICCAI 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ..class_weights import ClassWeight, WeightScale, class_statistics, limit_weight, most_probable, scale_weight
from ..engine.iteration import train_on_terms
from ..engine.ramps import gaussian_rise
from ..errors import ConfigError
from ..handlers.epochs import total_iterations
from ..networks.averaging import EMANetwork
from .loader import pad_alike
from .losses import weighted_cross_entropy
from .mixing import Mixing
from .pairs import MixDirection, MixedPairs, Pairs
from .students import members_of

Pair = Sequence[Tensor]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Teaching = Callable[[Pair, Pair, Pair, Loss], Tensor]
Teacher = Literal["ema", "students"]
LossName = Literal["dice_cross_entropy", "cross_entropy"]


class GaussianRamp:
    """Rises from near 0 to ``theta_max``: ``theta_max * exp(-5 * (1 - t / T) ** 2)``.

    Args:
        theta_max: Weight of the unlabeled images at the end, at least 0. 0.1, of the source's program, by default; the
            source's text has 1.

    Raises:
        ConfigError: When ``theta_max`` is below 0.
    """

    def __init__(self, theta_max: float = 0.1) -> None:
        if not theta_max >= 0:
            raise ConfigError(f"theta_max is {theta_max}; accepted are weights from 0")
        self.theta_max = theta_max

    def __call__(self, share: float) -> float:
        """Returns the value when a share ``t / T`` of the training is done, in [0, 1]."""
        return self.theta_max * gaussian_rise(share)


def cross_supervision(students: Pair, teachers: Pair, weights: Pair, loss: Loss) -> Tensor:
    """Returns the loss of each network against the pseudo label of the other.

    Args:
        students: Logits of A and B on the unlabeled images, ``(B, C, H, W[, D])`` each.
        teachers: Logits of the teachers of A and B on them.
        weights: Class weights of A and B, ``(C,)`` each.
        loss: Loss that takes logits, class indices and weights.
    """
    pseudo = [most_probable(logits) for logits in teachers]
    return loss(students[0], pseudo[1], weights[0]) + loss(students[1], pseudo[0], weights[1])


def mean_teacher(students: Pair, teachers: Pair, weights: Pair, loss: Loss) -> Tensor:
    """Returns the mean squared difference between the softmax of each network and that of its own teacher.

    Arguments are those of :func:`cross_supervision`; neither the weights nor the loss count.
    """
    pairs = zip(students, teachers, strict=True)
    return torch.stack(
        [mse_loss(first.float().softmax(dim=1), second.detach().float().softmax(dim=1)) for first, second in pairs]
    ).sum()


TEACHINGS: dict[str, Teaching | None] = {"none": None, "cross": cross_supervision, "mean_teacher": mean_teacher}
"""Name of a way to learn from unlabeled images -> its loss; what ``teaching`` accepts."""


class CoTrainingStep:
    """One iteration of co-training, the ``iteration_update`` of MONAI's ``SupervisedTrainer``.

    ``L = L_sup + mixed_weight * L_m + theta * L_u``. Both networks learn from the labeled half of the batch
    (``L_sup``). Each learns from a mix of both halves with the pseudo labels of its own teacher (``L_m``), once a share
    of the training is done; before, where so chosen, from labeled images mixed with each other. Each also learns from
    the unlabeled half with the pseudo labels of the other's teacher (``L_u``). The class weights are updated from what
    the networks say of this batch, then used for it.

    Args:
        network: A ``CoTrainedPair``, perhaps distributed; without cross teaching also a ``SingleStudent``.
        loss: Loss of labeled images, and of others where so chosen. It takes logits, class indices and class
            weights.
        weight_a: Class weights of network A.
        weight_b: Class weights of network B.
        ramp: Function from the share of the training that is done, in (0, 1], to theta.
        ema: Average of the networks; needed where ``teacher`` is ``ema``. ``None`` by default.
        mixing: Function that makes mixed pairs. With ``None``, the default, none are made.
        teaching: Name of the way to learn from unlabeled images, one of ``TEACHINGS``; ``cross`` by default.
        cross_loss: Loss of unlabeled images with the other network's pseudo labels: ``cross_entropy``, weighted, the
            default, as in the source's program; ``dice_cross_entropy``, that of labeled images, as in the source's
            text. With its Dice, a class that the pseudo labels of a batch miss is unlearned everywhere: networks soon
            agree on leaving it out.
        teacher: Who makes pseudo labels: ``ema``, the averages, by default, or ``students``, the networks themselves.
        teacher_noise: Standard deviation of noise added to what the averages see, at least 0. 0 by default; 0.1 for
            mean teachers.
        mixed_loss: Loss of mixed images: ``dice_cross_entropy``, the default, that of labeled images;
            ``cross_entropy``, weighted, as in the source's text.
        mixed_weight: Factor of the loss of mixed images, at least 0. 0.5 by default; the source's text has 1, its
            program 0.25 beside 0.75 for labeled images.
        mix_start: Share of the training, in [0, 1], after which images are mixed. 0.2 by default: early pseudo labels
            are of no use; with 0, as in the source's text, they are mixed from the first iteration on.
        mix_direction: What is pasted into what, ``into_labeled`` by default, see :class:`~.pairs.MixedPairs`.
        mix_labeled: Whether labeled images, where a batch has two or more, are mixed with each other until
            ``mix_start``. False by default.
        min_weight: Smallest weight of a class in the losses, as a share of the largest, in [0, 1]. 0.3 by default. With
            0, the source's, DisW lets foreground in the place of background cost nothing in the cross entropies.
        weight_scale: Scale of the weights in the losses: ``mean``, the default, or ``maximum``, see
            :func:`~..class_weights.limit_weight`.
        generator: Generator of the mixing's draws; on the CPU, so that no draw waits for a GPU. With ``None``, the
            default, torch's own.

    Raises:
        ConfigError: When a setting is not accepted.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        weight_a: ClassWeight,
        weight_b: ClassWeight,
        *,
        ramp: Callable[[float], float],
        ema: EMANetwork | None = None,
        mixing: Mixing | None = None,
        teaching: str = "cross",
        cross_loss: LossName = "cross_entropy",
        teacher: Teacher = "ema",
        teacher_noise: float = 0.0,
        mixed_loss: LossName = "dice_cross_entropy",
        mixed_weight: float = 0.5,
        mix_start: float = 0.2,
        mix_direction: MixDirection = "into_labeled",
        mix_labeled: bool = False,
        min_weight: float = 0.3,
        weight_scale: WeightScale = "mean",
        generator: torch.Generator | None = None,
    ) -> None:
        _check_names(
            teaching=teaching, cross_loss=cross_loss, teacher=teacher, mixed_loss=mixed_loss, weight_scale=weight_scale
        )
        _check_numbers(mixed_weight=mixed_weight, mix_start=mix_start, min_weight=min_weight)
        if teacher == "ema" and ema is None:
            raise ConfigError("teacher is 'ema', but there is no average; give one as ema, or let students teach")
        self.device = next(network.parameters()).device
        self.limit = partial(limit_weight, min_weight=min_weight, weight_scale=weight_scale)
        self.cross_loss, self.mixed_loss = cross_loss, mixed_loss
        self.mixed_weight, self.mix_start, self.mix_labeled = mixed_weight, mix_start, mix_labeled
        self.loss, self.ramp, self.ema = loss, ramp, ema
        self.pairs = None if mixing is None else MixedPairs(mixing, mix_direction=mix_direction, generator=generator)
        students = len(members_of(network))
        if teaching == "cross" and students < 2:
            raise ConfigError("teaching is 'cross', which needs two networks; take the CoTrainedPair as network_def")
        self.class_weights = [weight.to(self.device) for weight in (weight_a, weight_b)[:students]]
        self.teaching, self.teacher, self.teacher_noise = TEACHINGS[teaching], teacher, teacher_noise

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss."""
        used = {"supervised": True, "unsupervised": self.teaching is not None, "mixed": self.pairs is not None}
        return tuple(name for name, is_used in used.items() if is_used)

    @property
    def members(self) -> dict[str, nn.Module]:
        """Name -> what the step remembers from one iteration to the next, for checkpoints."""
        weights = zip(("weight_a", "weight_b"), self.class_weights, strict=False)
        return dict(weights) | ({} if self.ema is None else {"ema": self.ema})

    @property
    def moved_average(self) -> EMANetwork | None:
        """Average that the step moves, since it teaches; ``None`` where nobody learns from one."""
        return self.ema if self.teacher == "ema" and len(self.terms) > 1 else None

    def teachers(self, network: nn.Module) -> list[nn.Module]:
        """Returns the networks that make pseudo labels: those of the average, or the students themselves.

        Args:
            network: A ``CoTrainedPair`` or ``SingleStudent``, perhaps distributed.
        """
        return members_of(network if self.moved_average is None else self.moved_average.module)

    def label(self, logits: Tensor, _number: int = 0) -> Tensor:
        """Returns the pseudo labels ``(B, 1, H, W[, D])`` of a teacher's logits ``(B, C, H, W[, D])``.

        Args:
            logits: Logits of a teacher.
            _number: Number of that teacher, from 0; 0 by default. Here all label alike.
        """
        return most_probable(logits)

    def __call__(self, engine: Any, batchdata: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Trains on one batch of ``image``, ``label`` and ``unlabeled``; returns ``loss`` and its terms."""
        share = engine.state.iteration / total_iterations(engine)
        losses = partial(self.losses, theta=self.ramp(share), mixes=share > self.mix_start)
        return train_on_terms(engine, batchdata, losses)

    def losses(
        self, network: nn.Module, batch: Mapping[str, Tensor], *, theta: float, mixes: bool = True
    ) -> dict[str, Tensor]:
        """Returns the terms of the loss of one batch, each with its factor.

        Args:
            network: A ``CoTrainedPair`` in training mode, perhaps distributed.
            batch: Batch with ``image`` and ``label`` of the labeled half and, unless nothing is learned from it,
                ``unlabeled``. The smaller half is padded with zeros.
            theta: Weight of what the unlabeled images teach, at least 0.
            mixes: Whether mixed images are learned from yet; else their term is 0. True by default.
        """
        learns_more = len(self.terms) > 1
        parts = [batch["image"], batch["label"].long(), *([batch["unlabeled"]] if learns_more else [])]
        image_l, label, *unlabeled = pad_alike(parts, spatial_dims=parts[0].ndim - 2)
        # Apart: where both share the statistics of batch normalization, networks tell labeled patients by them.
        students_l = network(image_l)
        students_u = network(*unlabeled) if unlabeled else [logits[:0] for logits in students_l]
        weights = self._weigh(students_l, students_u, label)
        terms = {"supervised": self._sum(self.loss, students_l, [label] * len(students_l), weights)}
        if not learns_more:
            return terms
        teachers = self._teach(network, unlabeled[0], students_u)
        if self.teaching is not None:
            terms["unsupervised"] = theta * self.teaching(students_u, teachers, weights, self._choose(self.cross_loss))
        if self.pairs is not None:
            pairs = self._mix(self.pairs, unlabeled[0], teachers, image_l, label, mixes=mixes)
            terms["mixed"] = self._learn_mixed(network, pairs, weights)
        return terms

    def _weigh(self, students_l: Pair, students_u: Pair, label: Tensor) -> list[Tensor]:
        """Updates the class weights of both networks; returns them as losses take them.

        The source lets DisW's shares follow the pseudo labels of f_B. Taken literally, those are what the student
        predicts, whoever teaches. With ``teacher="ema"`` the averages make other pseudo labels, which train A and enter
        the mix, but are not counted here.
        """
        for weight, labeled, unlabeled in zip(self.class_weights, students_l, students_u, strict=True):
            # Weights that are the same for all classes ask nothing.
            if type(weight) is not ClassWeight:
                pseudo = most_probable(unlabeled) if len(unlabeled) else None
                weight.update(class_statistics(labeled.detach().float().softmax(dim=1), label, pseudo))
        return [self.limit(weight.loss_weight()) for weight in self.class_weights]

    @torch.no_grad()
    def _teach(self, network: nn.Module, unlabeled: Tensor, students: Pair) -> Pair:
        """Logits of the teachers on the unlabeled images."""
        if self.teacher == "students" or self.ema is None:
            return [logits.detach() for logits in students]
        self.ema.update_parameters(network)
        seen = unlabeled
        if self.teacher_noise:
            seen = unlabeled + self.teacher_noise * torch.randn_like(unlabeled)
        return self.ema.module.each(seen)  # type: ignore[operator]

    def _mix(
        self, pairs: MixedPairs, unlabeled: Tensor, teachers: Pair, image: Tensor, label: Tensor, *, mixes: bool
    ) -> Pairs | None:
        """One mixed pair for each network, drawn with its own weights from the pseudo labels of its own teacher."""
        weights = [scale_weight(weight.weight) for weight in self.class_weights]
        if mixes:
            return pairs(unlabeled, [most_probable(logits) for logits in teachers], image, label, weights)
        # One image alone would be learned from twice, as it is.
        return pairs.among_labeled(image, label, weights) if self.mix_labeled and len(image) > 1 else None

    def _learn_mixed(self, network: nn.Module, pairs: Pairs | None, weights: Pair) -> Tensor:
        """The loss of mixed pairs with its factor; 0 where there are none, as terms are the same in all iterations."""
        if pairs is None:
            return weights[0].new_zeros(())
        images, labels = pairs
        return self.mixed_weight * self._sum(self._choose(self.mixed_loss), network(*images), labels, weights)

    def _choose(self, name: LossName) -> Loss:
        """The loss of a name."""
        return self.loss if name == "dice_cross_entropy" else weighted_cross_entropy

    @staticmethod
    def _sum(loss: Loss, logits: Pair, labels: Pair, weights: Pair) -> Tensor:
        """The losses of all networks."""
        return torch.stack([loss(*item) for item in zip(logits, labels, weights, strict=True)]).sum()


def _check_names(**given: str) -> None:
    """Raises when a choice does not exist."""
    literals = {"teacher": Teacher, "cross_loss": LossName, "mixed_loss": LossName, "weight_scale": WeightScale}
    accepted = {"teaching": tuple(TEACHINGS), **{name: get_args(kind) for name, kind in literals.items()}}
    for name, value in given.items():
        if value not in accepted[name]:
            raise ConfigError(f"{name} is {value!r}; accepted are {', '.join(accepted[name])}")


def _check_numbers(*, mixed_weight: float, mix_start: float, min_weight: float) -> None:
    """Raises when a number is out of range."""
    if not 0 <= mixed_weight < math.inf:
        raise ConfigError(f"mixed_weight is {mixed_weight}; accepted are factors from 0")
    if not 0 <= mix_start <= 1:
        raise ConfigError(f"mix_start is {mix_start}; accepted is a share of the training, 0 to 1")
    if not 0 <= min_weight <= 1:
        raise ConfigError(f"min_weight is {min_weight}; accepted is a share of the largest weight, 0 to 1")
