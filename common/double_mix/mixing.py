"""Mixes labeled images with unlabeled ones and their pseudo labels: Double-Mix, and what it is compared with.

Double-Mix (Zhang et al., *Double-Mix Pseudo-Label Framework*, IJCARS) pastes whole classes of the pseudo label into the
labeled image. They are drawn with the class weights of the network that learns from the mix. Random numbers are drawn
first, as many whatever the images show, and applied afterwards. So nothing waits for the device, and the mix of a batch
is the mix of its elements.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from monai.transforms import CutOut
from torch import Tensor

from ..errors import ConfigError
from ..metrics.masks import class_masks
from .boxes import boxes_around
from .draws import uniform

Draw = Literal["replacement", "bernoulli"]
Mixed = tuple[Tensor, Tensor, Tensor]
MaskOf = Callable[[Tensor, Tensor, torch.Generator | None], Tensor]
"""Draws the mask of a mixing from pseudo labels, class weights and a generator, see :func:`mask_by_weight`."""


def present_classes(label: Tensor, num_classes: int) -> Tensor:
    """Returns which classes each image holds, ``(B, C)`` bool, of class indices ``(B, 1, H, W[, D])``."""
    return class_masks(label, num_classes).flatten(2).any(dim=2)


def draw_classes(present: Tensor, weight: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Returns C draws with replacement for each image, among the classes it holds, with the weights as probabilities.

    Where every class present has weight 0, all present ones are equally likely.

    Args:
        present: Classes that each image holds, ``(B, C)`` bool, at least one true in each row.
        weight: Weight of each class, ``(C,)``, at least 0; its scale does not matter.
        generator: Generator of the draw. With ``None``, the default, torch's own.

    Returns:
        ``(B, C)`` class indices; of a row, as many count as classes are present.
    """
    probability = weight.to(present.device).double() * present
    probability = torch.where(probability.sum(dim=1, keepdim=True) > 0, probability, present.double())
    size = present.shape[1]
    # A race of exponential clocks: the first to ring is drawn, with a probability proportional to its rate.
    clocks = -torch.log1p(-uniform((len(present), size, size), present.device, generator))
    rates = probability.unsqueeze(1)
    return torch.where(rates > 0, clocks / rates, torch.inf).argmin(dim=2)


def choose_classes(
    present: Tensor, weight: Tensor, *, generator: torch.Generator | None = None, draw: Draw = "replacement"
) -> Tensor:
    """Returns the classes that each image gives away, ``(B, C)`` bool.

    Args:
        present: Classes that each image holds, ``(B, C)`` bool, at least one true in each row.
        weight: Weight of each class, ``(C,)``, at least 0; at most 1 for ``bernoulli``.
        generator: Generator of the draw. With ``None``, the default, torch's own.
        draw: Way to draw. ``replacement``, the default, draws as often as classes are present and merges duplicates.
            ``bernoulli`` takes each class with a probability of its weight, so perhaps none. Where all present ones
            have weight 0, it takes one of them, all equally likely.
    """
    if draw == "bernoulli":
        numbers = uniform(tuple(present.shape), present.device, generator)
        likely = present & (weight.to(present.device) > 0)
        first = torch.where(present, numbers, torch.inf).argmin(dim=1, keepdim=True)
        one = present & torch.zeros_like(present).scatter_(1, first, value=True)
        return torch.where(likely.any(dim=1, keepdim=True), likely & (numbers < weight.to(present.device)), one)
    drawn = draw_classes(present, weight, generator=generator)
    order = torch.arange(present.shape[1], device=present.device)
    # Drawing for the largest possible number and dropping the rest waits for nothing.
    counts = order < present.sum(dim=1, keepdim=True)
    return ((drawn.unsqueeze(2) == order) & counts.unsqueeze(2)).any(dim=1)


def mask_of_classes(label: Tensor, chosen: Tensor) -> Tensor:
    """Returns the voxels of the chosen classes, a bool of the shape of ``label``.

    Args:
        label: Class indices, ``(B, 1, H, W[, D])``.
        chosen: Chosen classes of each image, ``(B, C)`` bool.
    """
    return chosen.gather(1, label.flatten(1).long()).reshape(label.shape)


def apply_mask(image_u: Tensor, pseudo_u: Tensor, image_l: Tensor, label_l: Tensor, mask: Tensor) -> Mixed:
    """Returns the unlabeled image and its pseudo label inside the mask, the labeled ones outside, and the mask.

    ``x^m = x^u * M + x^l * (1 - M)`` and ``y^m = y^u * M + y^l * (1 - M)``.
    """
    return torch.where(mask, image_u, image_l), torch.where(mask, pseudo_u, label_l.to(pseudo_u.dtype)), mask


def mask_by_weight(
    pseudo_u: Tensor, weight: Tensor, generator: torch.Generator | None = None, *, draw: Draw = "replacement"
) -> Tensor:
    """Double-Mix: returns the voxels of classes that are drawn with their weights, a bool of the shape of ``pseudo_u``.

    Args:
        pseudo_u: Pseudo labels of the unlabeled images, class indices ``(B, 1, H, W[, D])``.
        weight: Weight of each class, ``(C,)``, at least 0.
        generator: Generator of the draw. With ``None``, the default, torch's own.
        draw: Way to draw, ``replacement`` by default, see :func:`choose_classes`.
    """
    present = present_classes(pseudo_u, len(weight))
    return mask_of_classes(pseudo_u, choose_classes(present, weight, generator=generator, draw=draw))


def mask_around_class(
    pseudo_u: Tensor, weight: Tensor, generator: torch.Generator | None = None, *, share: float = 1 / 3
) -> Tensor:
    """Double-Mix with surroundings: returns a box around a voxel of a class that is drawn with its weight.

    Ours, not the source's. What is pasted brings its neighbors along, so that the seam tells nothing of the class.
    Background is drawn where an image shows nothing else.

    Args:
        pseudo_u: Pseudo labels of the unlabeled images, class indices ``(B, 1, H, W[, D])``.
        weight: Weight of each class, ``(C,)``, at least 0; that of background does not count.
        generator: Generator of the draw. With ``None``, the default, torch's own.
        share: Mean share of each side of the image that a box has, 1/3 by default, see :func:`~.boxes.boxes_around`.
    """
    present = present_classes(pseudo_u, len(weight))
    foreground = present & (torch.arange(len(weight), device=present.device) > 0)
    present = torch.where(foreground.any(dim=1, keepdim=True), foreground, present)
    classes = draw_classes(present, weight, generator=generator)[:, 0]
    return boxes_around(pseudo_u, classes, share, generator=generator)


def mask_of_half(pseudo_u: Tensor, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """ClassMix (Olsson et al., WACV 2021): half of the classes present, rounded down, all alike.

    Arguments are those of :func:`mask_by_weight`; of ``weight`` only the length counts.
    """
    present = present_classes(pseudo_u, len(weight))
    lots = torch.where(present, uniform(tuple(present.shape), present.device, generator), torch.inf)
    chosen = lots.argsort(dim=1).argsort(dim=1) < present.sum(dim=1, keepdim=True) // 2
    return mask_of_classes(pseudo_u, chosen)


def mask_of_box(pseudo_u: Tensor, _weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """CutMix (Yun et al., ICCV 2019): a box; arguments are those of :func:`mask_by_weight`."""
    return random_boxes(pseudo_u, generator)


def mask_around_box(pseudo_u: Tensor, _weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """CutOut (DeVries and Taylor, 2017): all but a box; arguments are those of :func:`mask_by_weight`."""
    return ~random_boxes(pseudo_u, generator)


@dataclass(frozen=True)
class Mixing:
    """Pastes the unlabeled images into the labeled ones where a mask says so.

    Args:
        mask_of: Function that draws the mask.
        empty: Whether zeros and background take the place of the labeled images. False by default.
    """

    mask_of: MaskOf
    empty: bool = False

    def __call__(
        self,
        image_u: Tensor,
        pseudo_u: Tensor,
        image_l: Tensor,
        label_l: Tensor,
        weight: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Mixed:
        """Returns mixed images, mixed labels and the mask; arguments are those of :func:`double_mix`."""
        if pseudo_u.ndim == image_u.ndim - 1:
            parts = image_u, pseudo_u.unsqueeze(1), image_l, label_l.unsqueeze(1)
            image, label, mask = self(*parts, weight, generator=generator)
            return image, label.squeeze(1), mask.squeeze(1)
        _check_shapes(image_u, pseudo_u, image_l, label_l)
        if self.empty:
            image_l, label_l = torch.zeros_like(image_l), torch.zeros_like(label_l)
        return apply_mask(image_u, pseudo_u, image_l, label_l, self.mask_of(pseudo_u, weight, generator))


def double_mix(
    image_u: Tensor,
    pseudo_u: Tensor,
    image_l: Tensor,
    label_l: Tensor,
    weight: Tensor,
    *,
    generator: torch.Generator | None = None,
    draw: Draw = "replacement",
) -> Mixed:
    """Pastes the voxels of drawn classes of the unlabeled images into the labeled ones.

    Args:
        image_u: Unlabeled images, ``(B, n, H, W[, D])``.
        pseudo_u: Pseudo labels of the unlabeled images, class indices ``(B, 1, H, W[, D])`` or ``(B, H, W[, D])``.
        image_l: Labeled images, of the shape of ``image_u``.
        label_l: Labels of the labeled images, of the shape of ``pseudo_u``.
        weight: Weight of each class, ``(C,)``, at least 0: how likely each class is drawn.
        generator: Generator of the draw; one on the CPU draws the same for every device. With ``None``, the default,
            torch's own.
        draw: Way to draw, ``replacement`` by default, see :func:`choose_classes`.

    Returns:
        Mixed images, mixed labels, and the mask of what came from the unlabeled images, a bool of the labels' shape.

    Raises:
        ConfigError: When shapes differ.

    Example:
        >>> image_u, image_l = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
        >>> pseudo_u = torch.tensor([[[[0, 1], [0, 1]]]])
        >>> image, label, mask = double_mix(image_u, pseudo_u, image_l, pseudo_u * 0, torch.tensor([0.0, 1.0]))
        >>> image[0, 0]
        tensor([[0., 1.], [0., 1.]])
    """
    mixing = Mixing(partial(mask_by_weight, draw=draw))
    return mixing(image_u, pseudo_u, image_l, label_l, weight, generator=generator)


def random_boxes(label: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Returns a random box for each image, a bool of the shape of ``label``, as MONAI's ``CutOut`` draws it.

    Its sides are the image's times the square root of a number from [0, 1]; all boxes of a batch start at one corner.

    Args:
        label: Class indices, ``(B, 1, H, W[, D])``; only their shape and device count.
        generator: Generator of the draw, on the CPU; MONAI draws by numpy, which is seeded from it. With ``None``, the
            default, torch's own.
    """
    transform = CutOut(batch_size=len(label))
    transform.set_random_state(seed=int(torch.randint(2**31 - 1, (1,), generator=generator)))
    with warnings.catch_warnings():
        # MONAI 1.6.1 indexes by a list, which torch 2.13 still takes for a tuple, with a warning.
        warnings.simplefilter("ignore", UserWarning)
        kept = transform(torch.ones(label.shape, device=label.device))
    return torch.as_tensor(kept) == 0


MIXINGS: dict[str, Mixing | None] = {
    "none": None,
    "CutMix": Mixing(mask_of_box),
    "CutOut": Mixing(mask_around_box, empty=True),
    "ClassMix": Mixing(mask_of_half),
    "Double-Mix": Mixing(mask_by_weight),
    "Double-Mix-Box": Mixing(mask_around_class),
}
"""What ``mixing`` accepts: the name of a mixing -> how it is done."""


def make_mixing(mixing: str, draw: Draw = "replacement") -> Mixing | None:
    """Returns the mixing of that name, ``None`` for none.

    Args:
        mixing: Name of the mixing, one of ``MIXINGS``.
        draw: Way in which Double-Mix draws, ``replacement`` by default, see :func:`choose_classes`.

    Raises:
        ConfigError: When there is no such mixing or draw.
    """
    if mixing not in MIXINGS:
        raise ConfigError(f"mixing is {mixing!r}; accepted are {', '.join(MIXINGS)}")
    if draw not in get_args(Draw):
        raise ConfigError(f"draw is {draw!r}; accepted are {' and '.join(get_args(Draw))}")
    return Mixing(partial(mask_by_weight, draw=draw)) if mixing == "Double-Mix" else MIXINGS[mixing]


def _check_shapes(image_u: Tensor, pseudo_u: Tensor, image_l: Tensor, label_l: Tensor) -> None:
    """Raises when the two sides, or images and labels, do not fit."""
    places = {tuple(item.shape[:1] + item.shape[2:]) for item in (image_u, pseudo_u, image_l, label_l)}
    if len(places) > 1 or image_u.shape[1] != image_l.shape[1] or pseudo_u.shape[1] != label_l.shape[1]:
        shapes = [tuple(item.shape) for item in (image_u, pseudo_u, image_l, label_l)]
        raise ConfigError(
            f"unlabeled image and pseudo label {shapes[:2]}, labeled image and label {shapes[2:]}: both sides must "
            "have equal shapes, and one channel of class indices"
        )
