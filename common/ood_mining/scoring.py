"""Scores how much foreground a network sees in a patch without any (Gao and Xu, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from ..errors import WeightsError


def confusion_score(logits: Tensor, padding: Tensor | None = None) -> Tensor:
    """Returns, for each patch, the fraction of its pixels predicted foreground; higher means more confusing.

    The paper prunes patches with ``mIoU(prediction, empty mask) = 1``, which are those with a score of 0. Its own score
    does not rank the others: against an empty mask, the IoU of a class is 0 or 1.

    Args:
        logits: Logits, ``(B, C, H, W[, D])``. Channel 0 is the background where there are several; a single channel is
            the foreground (sigmoid).
        padding: Mask of the pixels that do not count, such as those that padding added, ``(B, 1, H, W[, D])``. Default
            none.

    Returns:
        ``(B,)`` float64 in [0, 1], on the device of ``logits``; 0 for a patch of nothing but padding.
    """
    foreground, counted = _predicted_foreground(logits, padding)
    return _share(foreground, counted)


def removed_share(logits: Tensor, removed: Tensor, padding: Tensor | None = None) -> Tensor:
    """Returns, for each patch, which share of the pixels predicted foreground lies where foreground was removed.

    Ours: near 1, the network has not found what looks like foreground, but the holes that removal leaves.

    Args:
        logits: Logits, ``(B, C, H, W[, D])``, as for :func:`confusion_score`.
        removed: Mask of the pixels whose foreground, or rim of it, was removed, ``(B, 1, H, W[, D])``.
        padding: Mask of padding, as for :func:`confusion_score`. Default none.

    Returns:
        ``(B,)`` float64 in [0, 1], on the device of ``logits``; 0 for a patch in which nothing is found.
    """
    foreground, _ = _predicted_foreground(logits, padding)
    return _share(foreground & removed[:, 0].to(foreground.device), foreground)


def _predicted_foreground(logits: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """The pixels that are found and those that count, ``(B, H, W[, D])`` each."""
    # The same as an argmax above 0, also where two are equal, and many times faster on a CPU.
    foreground = logits[:, 1:].amax(dim=1) > logits[:, 0] if logits.shape[1] > 1 else logits[:, 0] > 0
    counted = torch.ones_like(foreground) if padding is None else ~padding[:, 0].to(foreground.device)
    return foreground & counted, counted


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """How much of a mask of each patch another one takes; 0 of an empty one."""
    taken, number = (mask.flatten(1).sum(dim=1) for mask in (part, whole))
    return taken.double() / number.clamp_min(1)


@torch.no_grad()
def score_batches(
    network: nn.Module, batches: Iterable[Mapping[str, Tensor]], device: torch.device, *, ignore_removed: bool = False
) -> Tensor:
    """Returns :func:`confusion_score` and :func:`removed_share` of every patch of all batches, in their order.

    Args:
        network: Network of the baseline; in evaluation mode afterwards.
        batches: Batches with ``image``, ``(B, C, H, W[, D])``, and the mask ``removed`` of the pixels whose
            foreground, or rim of it, was removed, ``(B, 1, H, W[, D])``. Where padding shall not count,
            also its mask ``padding``.
        device: Device that the network runs on.
        ignore_removed: Whether pixels of ``removed`` do not count for the score either, so that what confuses is never
            the hole that the removal left. Default false, as in the paper.

    Returns:
        ``(N, 2)`` float64 on the CPU.

    Raises:
        WeightsError: When outputs of the network are not finite, which would count as background.
    """
    network.to(device).eval()
    # Gathered on the device: no batch waits for the one before it.
    scores = []
    for batch in batches:
        logits = network(torch.as_tensor(batch["image"]).to(device))
        padding, removed = batch.get("padding"), batch["removed"]
        left_out = removed if padding is None else removed | padding
        score = confusion_score(logits, left_out if ignore_removed else padding)
        finite = logits.isfinite().flatten(1).all(dim=1)
        pair = torch.stack([score, removed_share(logits, removed, padding)], dim=1)
        scores.append(pair.where(finite[:, None], torch.nan))
    gathered = torch.cat(scores).cpu() if scores else torch.zeros(0, 2, dtype=torch.float64)
    broken = int(gathered[:, 0].isnan().sum())
    if broken:
        raise WeightsError(
            f"the baseline gives NaN or infinite outputs for {broken} of {len(gathered)} candidates: its training has "
            "failed; train it anew, with a lower learning_rate"
        )
    return gathered


def rank_candidates(scores: Sequence[float] | ArrayLike) -> NDArray[np.int64]:
    """Returns the numbers of the candidates that confuse the baseline, from the most to the least confusing.

    Args:
        scores: Scores of all candidates, in [0, 1]; those of 0 are pruned.

    Returns:
        Indices into ``scores``; equally confusing ones in their order.

    Example:
        >>> rank_candidates([0.0, 0.1, 0.7, 0.1]).tolist()
        [2, 1, 3]
    """
    values = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    return np.asarray(order[values[order] > 0])
