"""Names the method and those it is compared with: what each learns beside the segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError


@dataclass(frozen=True)
class Method:
    """What is learned beside the segmentation.

    Args:
        pairs: What makes a positive pair: ``none`` for no pairs, or ``classes`` for frames of the same classes. With
            ``simclr`` or ``byol`` it is two views of one image, compared by that method.
        classifies: Whether the network learns which classes an image shows. False by default.
    """

    pairs: Literal["none", "classes", "simclr", "byol"]
    classifies: bool = False

    @property
    def needs_presence(self) -> bool:
        """Whether frames without masks must tell their classes."""
        return self.classifies or self.pairs == "classes"

    @property
    def uses_views(self) -> bool:
        """Whether every image is seen twice, changed in two ways."""
        return self.pairs in ("simclr", "byol")

    @property
    def learns_without_masks(self) -> bool:
        """Whether frames without masks teach anything."""
        return self.classifies or self.pairs != "none"


METHODS = {
    "unet": Method("none"),
    "simclr": Method("simclr"),
    "byol": Method("byol"),
    "classification": Method("none", classifies=True),
    "contrastive": Method("classes"),
    "both": Method("classes", classifies=True),
}
"""What ``method`` accepts; ``both`` is the source's."""


def find_method(method: str) -> Method:
    """Returns the method of that name.

    Raises:
        ConfigError: When there is none.
    """
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; accepted are {', '.join(METHODS)}")
    return METHODS[method]


def uses_views(method: str) -> bool:
    """Returns whether a method sees every image twice, changed in two ways."""
    return find_method(method).uses_views


def pairs_by_class(method: str) -> bool:
    """Returns whether a method compares frames that show the same classes."""
    return find_method(method).pairs == "classes"


def pretraining_epochs(method: str, *, two_step: bool, max_epochs: int, pretrain_epochs: int | None = None) -> int:
    """Returns in how many epochs the encoder alone is trained, without masks, before it is frozen; 0 for none.

    Args:
        method: Name of the method, one of ``METHODS``; ``byol`` always has two steps.
        two_step: Whether any other method has two steps.
        max_epochs: Number of epochs of both steps together.
        pretrain_epochs: Number of epochs of the first step, from 1 to ``max_epochs - 1``. With ``None``, the default,
            half of them, rounded down.

    Raises:
        ConfigError: When there is nothing to pre-train with, one of the steps would have no epoch, or there is but one.
    """
    chosen = find_method(method)
    if not two_step and chosen.pairs != "byol":
        if pretrain_epochs is not None:
            raise ConfigError(
                f"pretrain_epochs is {pretrain_epochs}, but method {method!r} has one step: set two_step, or leave it "
                "out"
            )
        return 0
    if not chosen.learns_without_masks:
        raise ConfigError(
            f"two_step is set, but method {method!r} has nothing to train an encoder with; choose another"
        )
    first = max_epochs // 2 if pretrain_epochs is None else pretrain_epochs
    if not 0 < first < max_epochs:
        raise ConfigError(
            f"pretrain_epochs is {first} of max_epochs {max_epochs}; accepted is 1 to max_epochs - 1, since the "
            "decoder is trained in the others"
        )
    return first
