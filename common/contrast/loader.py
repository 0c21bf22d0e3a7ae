"""Makes batches in which every frame finds another with the same classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Sampler

from ..data.cases import Case
from ..errors import ConfigError, NotEnoughCasesError
from ..runtime.distributed import process_rank, world_size
from ..sampling import TaskSampler
from .presence import NO_PHASE, presence_table

Indices = NDArray[np.int64]


class Partners:
    """Which frames are positive to which, looked up without comparing all with all.

    The relation is that of ``positive_pairs``: the same set of classes and, where both frames have one, the same phase.

    Args:
        presence: Table of classes, ``(N, K)``, above 0 where a frame shows a class.
        phase: Numbers of the frames' phases, ``(N,)``, -1 where none is given.
        num_labeled: Number of labeled frames, which come first and are looked up apart.
    """

    def __init__(self, presence: Tensor, phase: Tensor, num_labeled: int) -> None:
        _, sets = np.unique(np.asarray(presence) > 0, axis=0, return_inverse=True)
        self.sets, self.phases = np.asarray(sets).reshape(-1), np.asarray(phase)
        self.num_labeled = num_labeled
        self._found: dict[tuple[bool, int, int], Indices] = {}

    def positive(self, first: int, second: int) -> bool:
        """Returns whether two frames are positive to each other; a frame is so to another copy of itself."""
        phases = {int(self.phases[first]), int(self.phases[second])} - {NO_PHASE}
        return bool(self.sets[first] == self.sets[second]) and len(phases) < 2

    def of(self, frame: int, *, labeled: bool) -> Indices:
        """Returns the labeled or the other frames that are positive to a frame, perhaps itself among them."""
        key = (labeled, int(self.sets[frame]), int(self.phases[frame]))
        if key not in self._found:
            agree = self.sets == self.sets[frame]
            if key[2] != NO_PHASE:
                agree &= (self.phases == key[2]) | (self.phases == NO_PHASE)
            agree &= (np.arange(len(agree)) < self.num_labeled) == labeled
            self._found[key] = np.flatnonzero(agree)
        return self._found[key]

    def draw(self, frame: int, rng: np.random.Generator, *, labeled: bool) -> int | None:
        """Returns another frame that is positive to this one, drawn uniformly; ``None`` where there is none."""
        candidates = self.of(frame, labeled=labeled)
        place = int(np.searchsorted(candidates, frame))
        inside = place < len(candidates) and int(candidates[place]) == frame
        if len(candidates) == inside:
            return None
        chosen = int(rng.integers(len(candidates) - inside))
        return int(candidates[chosen + (inside and chosen >= place)])

    def lonely(self) -> list[int]:
        """Returns the frames to which no other is positive."""
        numbers = range(len(self.sets))
        return [n for n in numbers if sum(len(self.of(n, labeled=labeled)) for labeled in (True, False)) < 2]


class PairBatchSampler(Sampler[list[int]]):
    """Batches of labeled and of other frames in which every frame has a positive, where the data hold one.

    Frames are drawn with replacement, by the seed and the epoch alone. Where there are other frames, labeled ones are
    drawn alike with pairs and without, so that all methods learn from the same masks. Each that finds no positive among
    them brings one of the other frames. One of the other frames that finds no positive in its batch so far brings one
    as well; where no place is left for it, a frame that is positive to one of the batch comes in its stead. Without
    other frames, so do labeled ones.

    Args:
        cases: Labeled frames, then the others, each a case.
        num_labeled: Number of labeled frames, which come first; at least 1.
        batch_size: Number of frames in a batch, labeled and others together; at least 2.
        labeled_batch_fraction: Share of labeled frames in a batch, in (0, 1], at least one frame; 0.5 by default.
            Without other frames, the rest stays empty.
        partners: Table that tells which frames are positive to which. With ``None``, the default, frames are drawn
            without regard to that.
        samples_per_epoch: Number of frames in an epoch, over all ranks; as many as there are cases by default.
        seed: Seed of the draw. 0 by default.

    Raises:
        ConfigError: When a setting is not accepted.
        NotEnoughCasesError: Without labeled frames.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        num_labeled: int,
        batch_size: int,
        *,
        labeled_batch_fraction: float = 0.5,
        partners: Partners | None = None,
        samples_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        if batch_size < 2:
            raise ConfigError(f"batch_size is {batch_size}; a pair needs two frames: give at least 2")
        if not 0 < labeled_batch_fraction <= 1:
            raise ConfigError(f"labeled_batch_fraction is {labeled_batch_fraction}; accepted is above 0, up to 1")
        if not num_labeled:
            raise NotEnoughCasesError("no labeled frame to train on; add cases to dataset_dir")
        self.partners, self.num_labeled, self.seed, self.epoch = partners, num_labeled, seed, 0
        labeled = min(batch_size, max(1, round(labeled_batch_fraction * batch_size)))
        # Of each kind: labeled and other frames.
        self.places = {True: labeled, False: batch_size - labeled if len(cases) > num_labeled else 0}
        total = samples_per_epoch or len(cases)
        self.batches = max(1, -(-total // (batch_size * world_size())))
        self.samplers = {True: self._sampler(cases[:num_labeled], True, 2 * seed)}
        if self.places[False]:
            self.samplers[False] = self._sampler(cases[num_labeled:], False, 2 * seed + 1)

    def _sampler(self, cases: Sequence[Case], labeled: bool, seed: int) -> TaskSampler:
        number = self.batches * self.places[labeled] * world_size()
        return TaskSampler(cases, seed=seed, samples_per_epoch=number, uniform_sampling=True)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose batches the next iteration gives."""
        self.epoch = epoch
        for sampler in self.samplers.values():
            sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch, process_rank()])
        offsets = {True: 0, False: self.num_labeled}
        anchors = {kind: iter([n + offsets[kind] for n in sampler]) for kind, sampler in self.samplers.items()}
        for _ in range(self.batches):
            # The losses find frames with masks first.
            yield sorted(self._draw(anchors, rng), key=lambda frame: frame >= self.num_labeled)

    def _draw(self, anchors: Mapping[bool, Iterator[int]], rng: np.random.Generator) -> list[int]:
        """The frames of one batch."""
        free = {kind: places for kind, places in self.places.items() if places}
        batch: list[int] = []
        if False in free:
            batch = [next(anchors[True]) for _ in range(free.pop(True))]
            for number, frame in enumerate(list(batch)):
                if free[False] and self._is_alone(frame, [*batch[:number], *batch[number + 1 :]]):
                    batch += self._partner(frame, free, rng)
        while any(free.values()):
            (kind,) = free
            frame = next(anchors[kind])
            free[kind] -= 1
            batch += self._join(frame, kind, batch, free, rng)
        return batch

    def _is_alone(self, frame: int, batch: Sequence[int]) -> bool:
        """Whether none of the batch is positive to a frame, though the data hold one that is."""
        if self.partners is None or any(self.partners.positive(frame, other) for other in batch):
            return False
        return sum(len(self.partners.of(frame, labeled=labeled)) for labeled in (True, False)) > 1

    def _partner(self, frame: int, free: dict[bool, int], rng: np.random.Generator) -> list[int]:
        """A frame that is positive to this one, where there is one and a place for it, which it takes."""
        assert self.partners is not None
        (kind,) = free
        partner = self.partners.draw(frame, rng, labeled=kind)
        if partner is None or not free[kind]:
            return []
        free[kind] -= 1
        return [partner]

    def _join(
        self, frame: int, kind: bool, batch: Sequence[int], free: dict[bool, int], rng: np.random.Generator
    ) -> list[int]:
        """The frames that join a batch for one that was drawn."""
        if not self._is_alone(frame, batch):
            return [frame]
        partner = self._partner(frame, free, rng)
        return [frame, *partner] if partner else [self._instead(frame, kind, batch, rng)]

    def _instead(self, frame: int, kind: bool, batch: Sequence[int], rng: np.random.Generator) -> int:
        """A frame of the same kind that is positive to one of the batch; without any, the frame itself."""
        assert self.partners is not None
        for other in rng.permutation(np.asarray(batch, dtype=np.int64)).tolist():
            if len(self.partners.of(other, labeled=kind)):
                candidate = self.partners.draw(other, rng, labeled=kind)
                return other if candidate is None else candidate
        return frame

    def __len__(self) -> int:
        return self.batches


class _Frames(Dataset):
    """Labeled frames, then the others, each with its row of the table of classes."""

    def __init__(self, labeled: Any, others: Any, presence: Tensor, phase: Tensor) -> None:
        super().__init__([*labeled.data, *others.data])
        self.frames: ConcatDataset[Any] = ConcatDataset([labeled, others])
        self.presence, self.phase = presence, phase

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        """Returns one frame."""
        return self.frames[index] | {"presence": self.presence[index], "phase": self.phase[index]}


def collate_frames(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Returns a batch: ``image``, ``presence``, ``phase``, perhaps ``view``, and ``label`` of the first frames.

    Args:
        items: Frames of the batch; those with a label come first.
    """
    shared = [name for name in items[0] if name != "label"]
    batch = {name: torch.stack([item[name] for item in items]) for name in shared}
    return batch | {"label": torch.stack([item["label"] for item in items if "label" in item])}


class PairLoader(DataLoader):
    """MONAI's data loader for batches of labeled and other frames in which every frame finds a positive.

    Args:
        labeled: Dataset of dictionaries with ``image`` and ``label``; its ``data`` is the list of cases.
        others: Dataset of dictionaries with ``image``, perhaps empty.
        presence: Reader whose ``annotate`` tells the classes of cases.
        num_classes: Number of classes, C, background included.
        batch_size: Number of frames in a batch, labeled and others together; at least 2.
        labeled_batch_fraction: Share of labeled frames in a batch, in (0, 1]. 0.5 by default.
        paired: Whether every frame shall find a positive in its batch. True by default.
        samples_per_epoch: Number of frames in an epoch, see :class:`PairBatchSampler`.
        seed: Seed of the draw. 0 by default.
        num_workers: Number of processes that load. 0, the default, loads in the process of the training.
    """

    def __init__(
        self,
        labeled: Any,
        others: Any,
        *,
        presence: Any,
        num_classes: int,
        batch_size: int,
        labeled_batch_fraction: float = 0.5,
        paired: bool = True,
        samples_per_epoch: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        cases = presence.annotate([*labeled.data, *others.data])
        table, phase = presence_table(cases, num_classes)
        number = len(labeled.data)
        self.pairs = PairBatchSampler(
            cases,
            number,
            batch_size,
            labeled_batch_fraction=labeled_batch_fraction,
            partners=Partners(table, phase, number) if paired else None,
            samples_per_epoch=samples_per_epoch,
            seed=seed,
        )
        super().__init__(
            _Frames(labeled, others, table, phase),
            num_workers=num_workers,
            batch_sampler=self.pairs,
            collate_fn=collate_frames,
        )

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose batches the next iteration gives."""
        self.pairs.set_epoch(epoch)
