"""The trainer of all bundles."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import SupervisedTrainer


class Trainer(SupervisedTrainer):
    """MONAI's trainer, without decollation, which frees gradients and whose mixed precision is bfloat16.

    Nothing in these trainings looks at single cases of a batch; bfloat16 has the range of float32, so no loss is scaled.

    Args:
        **settings: Those of ``SupervisedTrainer``.
    """

    def __init__(self, **settings: Any) -> None:
        own = {"decollate": False, "optim_set_to_none": True, "amp_kwargs": {"dtype": torch.bfloat16}}
        super().__init__(**(own | settings))
