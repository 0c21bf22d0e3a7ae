"""Writes patches as files for a look at them; nothing reads these files."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from torch import Tensor

from ..runtime.files import write_atomically


def write_patch(image: Tensor, path: Path) -> Path:
    """Writes a prepared patch and returns the file.

    Args:
        image: Prepared patch. ``(C, H, W)`` is written as PNG, in colors where there are three channels, else the
            first. Values from 0, or the lowest, to 1, or the highest, become 0 to 255. ``(C, H, W, D)`` is written as
            NIfTI, channels last.
        path: Path of the file, without suffix.

    Raises:
        OutputError: When the file cannot be written.
    """
    if image.ndim == 4:
        target = path.with_name(f"{path.name}.nii.gz")
        with write_atomically(target) as temporary:
            nib.save(nib.Nifti1Image(image.movedim(0, -1).squeeze(-1).numpy(), np.eye(4)), temporary)
        return target
    low, high = min(0.0, float(image.min())), max(1.0, float(image.max()))
    shown = image if len(image) == 3 else image[:1]
    pixels = ((shown - low) / (high - low) * 255).round().byte().permute(2, 1, 0).squeeze(-1).numpy()
    target = path.with_name(f"{path.name}.png")
    with write_atomically(target) as temporary:
        Image.fromarray(pixels).save(temporary)
    return target
