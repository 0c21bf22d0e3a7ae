"""Keeps the largest connected component of every class of a segmentation."""

from __future__ import annotations

import torch
from scipy.ndimage import find_objects, generate_binary_structure, label
from torch import Tensor


def largest_components(labels: Tensor) -> Tensor:
    """Returns class indices where each foreground class of each image keeps its largest component; the rest is 0.

    It is computed on the host, so a GPU is waited for.

    Args:
        labels: Class indices, ``(B, 1, H, W[, D])``, 0 for background. Voxels that share a corner are connected; of
            components of one size, the first in memory stays.

    Example:
        >>> largest_components(torch.tensor([[[[1, 1, 0, 1, 2]]]]))
        tensor([[[[1, 1, 0, 0, 2]]]])
    """
    kept = labels.cpu().numpy().copy()
    structure = generate_binary_structure(kept.ndim - 2, kept.ndim - 2)
    for image in kept[:, 0]:
        for number, place in enumerate(find_objects(image), start=1):
            if place is None:
                continue
            part = image[place]
            components, count = label(part == number, structure=structure)
            if count > 1:
                sizes = torch.from_numpy(components).flatten().bincount()[1:]
                part[(components > 0) & (components != int(sizes.argmax()) + 1)] = 0
    return torch.from_numpy(kept).to(labels.device)
