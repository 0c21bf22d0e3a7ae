"""Adds up the loss of frames with masks: Dice and focal loss."""

from __future__ import annotations

from typing import Literal, get_args

from monai.losses import DiceLoss, FocalLoss, GeneralizedDiceLoss
from torch import Tensor, nn

from ..errors import ConfigError

FocalForm = Literal["softmax", "sigmoid"]


class GeneralizedDiceFocal(nn.Module):
    """Dice of the softmax over the whole batch plus focal loss; the source's Dice is the generalized one.

    Sudre et al., DLMIA 2017, for the generalized Dice: one quotient for all classes, each weighted by the inverse
    square of its true pixels, so that the rarest class decides and others may vanish. Lin et al., ICCV 2017, for the
    focal loss. MONAI's ``GeneralizedDiceFocalLoss`` takes the sigmoid of every class in the focal part, whatever the
    Dice takes: each class is told from all others, and none competes.

    Args:
        focal_form: Probabilities of the focal part: ``softmax``, the default, those that the segmentation is made from;
            ``sigmoid``, those of every class by itself.
        mean_dice: Whether the mean of the Dice of every class, background included, takes the place of the generalized
            one. False by default.
        gamma: Exponent of the focal loss, at least 0. 2, of Lin et al., by default.

    Raises:
        ConfigError: When there is no such form.
    """

    def __init__(self, focal_form: FocalForm = "softmax", *, mean_dice: bool = False, gamma: float = 2.0) -> None:
        super().__init__()
        if focal_form not in get_args(FocalForm):
            raise ConfigError(f"focal_form is {focal_form!r}; accepted are {' and '.join(get_args(FocalForm))}")
        kind = DiceLoss if mean_dice else GeneralizedDiceLoss
        self.dice = kind(to_onehot_y=True, softmax=True, batch=True)
        self.focal = FocalLoss(to_onehot_y=True, gamma=gamma, use_softmax=focal_form == "softmax")

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of logits ``(B, C, H, W[, D])`` and class indices ``(B, 1, H, W[, D])``."""
        dice: Tensor = self.dice(input, target)
        focal: Tensor = self.focal(input, target)
        return dice + focal
