"""Keeps the largest connected component of every class of a segmentation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
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


def without_smaller_components(probabilities: Tensor) -> Tensor:
    """Returns class probabilities with which each foreground class is most probable in one piece alone.

    What a class has in its smaller components goes to the background.

    Args:
        probabilities: Class probabilities of one image, ``(C, H, W[, D])``, the background's first; C is at least 2.
    """
    labels = probabilities.argmax(dim=0, keepdim=True)
    removed = labels != largest_components(labels[None])[0]
    moved = torch.where(removed, probabilities.gather(0, labels), 0.0)
    return probabilities.scatter_add(0, labels, -moved) + torch.cat([moved, torch.zeros_like(probabilities[1:])])


class LargestComponentsd(MapTransform):
    """Dictionary version of :func:`without_smaller_components`.

    Args:
        keys: Keys of the class probabilities.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` with probabilities of classes in one piece."""
        changed = dict(data)
        for key in self.key_iterator(changed):
            kept = without_smaller_components(torch.as_tensor(changed[key]).as_subclass(Tensor))
            changed[key] = convert_to_dst_type(kept, changed[key])[0]
        return changed
