"""Counts positive and negative patches (Gao and Xu, section 3.2)."""

from __future__ import annotations

from typing import Any

import torch


def patch_signs(label: Any, *, padding: Any = None, count_padding: bool = False) -> tuple[bool, bool]:
    """Returns whether a patch is positive (holds any foreground) and whether it is negative (any background).

    Args:
        label: Class indices, ``(1, H, W[, D])`` or ``(H, W[, D])``; 0 for background and in the padding.
        padding: Mask of the pixels that padding added, of the shape of ``label``. Default none.
        count_padding: Whether padding counts as background, as in the paper. With false, the default, a patch full of
            foreground at the edge of an image is not negative.

    Returns:
        Both, of which both may hold; a patch of nothing but padding is neither, unless padding counts.
    """
    classes = torch.as_tensor(label)
    background = classes == 0
    if padding is not None and not count_padding:
        background &= ~torch.as_tensor(padding).bool()
    return bool((classes != 0).any()), bool(background.any())
