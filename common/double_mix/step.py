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

from ..class_weights import ClassWeight, class_statistics, most_probable, scale_weight
from ..engine.iteration import train_on_terms
from ..errors import ConfigError
from ..networks.averaging import EMANetwork
from .losses import weighted_cross_entropy
from .mixing import Mixing

Pair = Sequence[Tensor]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Teaching = Callable[[Pair, Pair, Pair, Loss], Tensor]
Teacher = Literal["ema", "students"]


class GaussianRamp:
    """Rises from near 0 to ``theta_max``: ``theta_max * exp(-5 * (1 - t / T) ** 2)``.

    Args:
        theta_max: Weight of the unlabeled images at the end. 1, the source's, by default.
        max_epochs: Number of epochs of the rise, T, at least 1; afterwards the ramp stays at its maximum.
    """

    def __init__(self, theta_max: float = 1.0, *, max_epochs: int) -> None:
        self.theta_max, self.max_epochs = theta_max, max_epochs

    def __call__(self, epoch: int) -> float:
        """Returns the value in an epoch, counted from 1."""
        return self.theta_max * math.exp(-5 * (1 - min(epoch / self.max_epochs, 1)) ** 2)


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
    first, second = (
        mse_loss(student.float().softmax(dim=1), teacher.detach().float().softmax(dim=1))
        for student, teacher in zip(students, teachers, strict=True)
    )
    return first + second


TEACHINGS: dict[str, Teaching | None] = {"none": None, "cross": cross_supervision, "mean_teacher": mean_teacher}
"""Name of a way to learn from unlabeled images -> its loss; what ``teaching`` accepts."""


class CoTrainingStep:
    """One iteration of co-training, the ``iteration_update`` of MONAI's ``SupervisedTrainer``.

    ``L = L_sup + L_m + theta * L_u``. Both networks learn from the labeled half of the batch (``L_sup``). Each learns
    from a mix of both halves with the pseudo labels of its own teacher (``L_m``). Each also learns from the unlabeled
    half with the pseudo labels of the other's teacher (``L_u``). The class weights are updated from what the networks
    say of this batch, then used for it.

    Args:
        network: A ``CoTrainedPair``, perhaps distributed.
        loss: Loss of labeled images, and of unlabeled ones with pseudo labels. It takes logits, class indices and class
            weights.
        weight_a: Class weights of network A.
        weight_b: Class weights of network B.
        ramp: Function from the number of the epoch, from 1, to theta.
        ema: Average of the networks; needed where ``teacher`` is ``ema``. ``None`` by default.
        mixing: Function that makes mixed pairs. With ``None``, the default, none are made.
        teaching: Name of the way to learn from unlabeled images, one of ``TEACHINGS``; ``cross`` by default.
        teacher: Who makes pseudo labels: ``ema``, the averages, by default, or ``students``, the networks themselves.
        teacher_noise: Standard deviation of noise added to what the averages see, at least 0. 0 by default; 0.1 for
            mean teachers.
        min_weight: Smallest weight of a class in the losses, as a share of the largest, in [0, 1]. With 0, the default
            and the source's, DisW lets foreground in the place of background cost nothing in the cross entropies.
        generator: Generator of the mixing's draws; on the CPU, so that no draw waits for a GPU. With ``None``, the
            default, torch's own.
        amp: Whether to compute in bfloat16 where that is safe. False by default.

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
        ramp: Callable[[int], float],
        ema: EMANetwork | None = None,
        mixing: Mixing | None = None,
        teaching: str = "cross",
        teacher: Teacher = "ema",
        teacher_noise: float = 0.0,
        min_weight: float = 0.0,
        generator: torch.Generator | None = None,
        amp: bool = False,
    ) -> None:
        if teaching not in TEACHINGS:
            raise ConfigError(f"teaching is {teaching!r}; accepted are {', '.join(TEACHINGS)}")
        if teacher not in get_args(Teacher) or (teacher == "ema" and ema is None):
            raise ConfigError(f"teacher is {teacher!r}; accepted are {' and '.join(get_args(Teacher))}")
        if not 0 <= min_weight <= 1:
            raise ConfigError(f"min_weight is {min_weight}; accepted is a share of the largest weight, 0 to 1")
        device = next(network.parameters()).device
        self.min_weight = min_weight
        self.loss, self.ramp, self.ema, self.mixing = loss, ramp, ema, mixing
        self.class_weights = [weight.to(device) for weight in (weight_a, weight_b)]
        self.teaching, self.teacher, self.teacher_noise = TEACHINGS[teaching], teacher, teacher_noise
        self.generator, self.amp = generator, amp

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss."""
        used = {"supervised": True, "unsupervised": self.teaching is not None, "mixed": self.mixing is not None}
        return tuple(name for name, is_used in used.items() if is_used)

    def __call__(self, engine: Any, batchdata: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Trains on one batch of ``image``, ``label`` and ``unlabeled``; returns ``loss`` and its terms."""
        theta = self.ramp(engine.state.epoch)
        return train_on_terms(engine, batchdata, partial(self.losses, theta=theta), amp=self.amp)

    def losses(self, network: nn.Module, batch: Mapping[str, Tensor], *, theta: float) -> dict[str, Tensor]:
        """Returns the terms of the loss of one batch; the unsupervised one is multiplied by ``theta``.

        Args:
            network: A ``CoTrainedPair`` in training mode, perhaps distributed.
            batch: Batch with ``image`` and ``label`` of the labeled half and, unless nothing is learned from it,
                ``unlabeled``.
            theta: Weight of what the unlabeled images teach, at least 0.
        """
        image_l, label = batch["image"], batch["label"].long()
        learns_more = len(self.terms) > 1
        images = torch.cat([image_l, batch["unlabeled"]]) if learns_more else image_l
        halves = [logits.tensor_split([len(image_l)]) for logits in network(images)]
        students_l, students_u = [labeled for labeled, _ in halves], [unlabeled for _, unlabeled in halves]
        weights = self._weigh(students_l, students_u, label)
        terms = {"supervised": self._sum(self.loss, students_l, [label, label], weights)}
        if not learns_more:
            return terms
        teachers = self._teach(network, batch["unlabeled"], students_u)
        if self.teaching is not None:
            terms["unsupervised"] = theta * self.teaching(students_u, teachers, weights, self.loss)
        if self.mixing is not None:
            images_m, labels_m = self._mix(batch["unlabeled"], teachers, image_l, label)
            terms["mixed"] = self._sum(weighted_cross_entropy, network(*images_m), labels_m, weights)
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
        return [self._at_least(weight.loss_weight()) for weight in self.class_weights]

    def _at_least(self, weight: Tensor) -> Tensor:
        """Weights of which none is below the smallest that is accepted."""
        return torch.maximum(weight, self.min_weight * weight.max())

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
        self, unlabeled: Tensor, teachers: Pair, image: Tensor, label: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """One mixed pair for each network, drawn with its own weights from the pseudo labels of its own teacher."""
        assert self.mixing is not None
        mixed = [
            self.mixing(
                unlabeled,
                most_probable(logits),
                image,
                label,
                scale_weight(weight.weight),
                generator=self.generator,
            )
            for logits, weight in zip(teachers, self.class_weights, strict=True)
        ]
        return [pair[0] for pair in mixed], [pair[1] for pair in mixed]

    @staticmethod
    def _sum(loss: Loss, logits: Pair, labels: Pair, weights: Pair) -> Tensor:
        """The losses of both networks."""
        first, second = (loss(*item) for item in zip(logits, labels, weights, strict=True))
        return first + second
