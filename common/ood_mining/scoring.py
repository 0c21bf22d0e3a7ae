"""How much a network takes a patch without foreground for foreground (Gao and Xu, section 3.1, ranking and pruning)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn


def confusion_score(logits: Tensor, padding: Tensor | None = None) -> Tensor:
    """Returns, for each patch, the fraction of its pixels predicted foreground; higher means more confusing.

    The paper prunes patches with ``mIoU(prediction, empty mask) = 1``, which are those with a score of 0. Its own score
    does not rank the others: against an empty mask, the IoU of a class is 0 or 1.

    Args:
        logits: ``(B, C, H, W[, D])``; channel 0 is the background where there are several, a single channel is the
            foreground (sigmoid).
        padding: ``(B, 1, H, W[, D])`` mask of pixels that padding added and that do not count; none by default.

    Returns:
        ``(B,)`` float64 in [0, 1], on the device of ``logits``; 0 for a patch of nothing but padding.
    """
    # The same as an argmax above 0, also where two are equal, and many times faster on a CPU.
    several = logits.shape[1] > 1
    foreground = logits[:, 1:].amax(dim=1) > logits[:, 0] if several else logits[:, 0] > 0
    counted = torch.ones_like(foreground) if padding is None else ~padding[:, 0].to(foreground.device)
    hits, pixels = ((foreground & counted).flatten(1).sum(dim=1), counted.flatten(1).sum(dim=1))
    return hits.double() / pixels.clamp_min(1)


@torch.no_grad()
def score_batches(network: nn.Module, batches: Iterable[Mapping[str, Tensor]], device: torch.device) -> Tensor:
    """Returns :func:`confusion_score` of every patch of all batches, in their order.

    Args:
        network: the baseline, in evaluation mode afterwards.
        batches: with ``image`` ``(B, C, H, W[, D])`` and, where padding shall not count, its mask ``padding``.
        device: where the network runs.

    Returns:
        ``(N,)`` float64 on the CPU.
    """
    network.to(device).eval()
    # Gathered on the device: no batch waits for the one before it.
    scores = [
        confusion_score(network(torch.as_tensor(batch["image"]).to(device)), batch.get("padding")) for batch in batches
    ]
    return torch.cat(scores).cpu() if scores else torch.zeros(0, dtype=torch.float64)


def rank_candidates(scores: Sequence[float] | ArrayLike) -> NDArray[np.int64]:
    """Returns the numbers of the candidates that confuse the baseline, from the most to the least confusing.

    Args:
        scores: of all candidates, in [0, 1]; those of 0 are pruned.

    Returns:
        Indices into ``scores``; equally confusing ones in their order.

    Example:
        >>> rank_candidates([0.0, 0.1, 0.7, 0.1]).tolist()
        [2, 1, 3]
    """
    values = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    return np.asarray(order[values[order] > 0])
