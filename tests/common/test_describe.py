import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from monai.transforms import Compose, RandFlipd, ScaleIntensityd

from common.runtime.digests import describe, settings_digest


class Kind:
    def __init__(self, size, state=0):
        self.size, self._state = size, state


def test_object_is_its_class_and_public_attributes():
    assert describe(Kind((2, np.float32(0.5)), state=3)) == {"kind": "Kind", "settings": {"size": [2, 0.5]}}
    assert describe({1: Kind, "of": describe}) == {"1": "Kind", "of": "describe"}
    assert describe([torch.arange(3), None, "text", True]) == [[0, 1, 2], None, "text", True]


@pytest.mark.parametrize(
    "change", [{"include_background": False}, {"softmax": True}, {"batch": True}, {"weight": torch.ones(2)}], ids=str
)
def test_settings_of_the_parts_of_a_loss_count(change):
    """Torch keeps modules and buffers inside a module where nobody who looks at its attributes finds them."""
    assert settings_digest(DiceCELoss()) == settings_digest(DiceCELoss())
    assert settings_digest(DiceCELoss(**change)) != settings_digest(DiceCELoss())


def test_digest_tells_settings_apart_and_the_same_ones_together():
    def digest(factor, prob=0.5):
        return settings_digest(Compose([ScaleIntensityd("image", factor=factor), RandFlipd("image", prob=prob)]))

    assert digest(0.1) == digest(0.1)
    assert len({digest(0.1), digest(0.2), digest(0.1, 0.25)}) == 3
