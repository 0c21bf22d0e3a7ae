"""Measures whether frames of the same classes lie together: the nearest frame of another patient shows the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def nearest_agreement(
    embeddings: NDArray[np.float64], sets: Sequence[tuple[int, ...]], patients: Sequence[str] | None = None
) -> dict[str, float | None]:
    """Returns how often the nearest frame, by the angle, shows the same classes, and how often one drawn would.

    Frames of the same operation resemble each other whatever they show, so only those of others are looked at.

    Args:
        embeddings: Features of the frames, ``(N, D)``.
        sets: Classes that each of the N frames shows.
        patients: Patient or operation of each frame; frames of one are never compared. With ``None``, the default,
            every frame is a patient.

    Returns:
        ``nearest`` and ``chance``, shares of the frames, in [0, 1]; both ``None`` where no frames can be compared.
    """
    names = np.array([str(item) for item in sets])
    people = np.arange(len(sets)) if patients is None else np.array(list(patients))
    others = people[:, None] != people[None]
    asked = others.any(axis=1)
    if not asked.any():
        return {"nearest": None, "chance": None}
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12)
    similarity = np.where(others, units @ units.T, -np.inf)
    same = names[:, None] == names[None]
    found = same[np.arange(len(sets)), similarity.argmax(axis=1)]
    drawn = (same & others).sum(axis=1) / others.sum(axis=1).clip(1)
    return {"nearest": float(found[asked].mean()), "chance": float(drawn[asked].mean())}
