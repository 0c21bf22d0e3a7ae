"""Adds up the loss of frames with masks: generalized Dice and focal loss."""

from __future__ import annotations

from typing import Literal, get_args

from monai.losses import FocalLoss, GeneralizedDiceLoss
from torch import Tensor, nn

from ..errors import ConfigError

FocalForm = Literal["softmax", "sigmoid"]


class GeneralizedDiceFocal(nn.Module):
    """Generalized Dice of the softmax over the whole batch (Sudre et al., DLMIA 2017) plus focal loss.

    Lin et al., ICCV 2017, for the focal loss. MONAI's ``GeneralizedDiceFocalLoss`` takes the sigmoid of every class in
    the focal part, whatever the Dice takes: each class is told from all others, and none competes.

    Args:
        focal_form: Probabilities of the focal part: ``softmax``, the default, those that the segmentation is made from;
            ``sigmoid``, those of every class by itself.
        gamma: Exponent of the focal loss, at least 0. 2, of Lin et al., by default.

    Raises:
        ConfigError: When there is no such form.
    """

    def __init__(self, focal_form: FocalForm = "softmax", *, gamma: float = 2.0) -> None:
        super().__init__()
        if focal_form not in get_args(FocalForm):
            raise ConfigError(f"focal_form is {focal_form!r}; accepted are {' and '.join(get_args(FocalForm))}")
        self.dice = GeneralizedDiceLoss(to_onehot_y=True, softmax=True, batch=True)
        self.focal = FocalLoss(to_onehot_y=True, gamma=gamma, use_softmax=focal_form == "softmax")

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of logits ``(B, C, H, W[, D])`` and class indices ``(B, 1, H, W[, D])``."""
        dice: Tensor = self.dice(input, target)
        focal: Tensor = self.focal(input, target)
        return dice + focal
