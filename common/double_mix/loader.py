"""Makes batches of a labeled and an unlabeled half."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from monai.data import DataLoader
from monai.transforms import Compose, EnsureType, SpatialPad
from torch import Tensor
from torch.utils.data import ConcatDataset, Sampler

from ..errors import ConfigError, NotEnoughCasesError
from ..runtime.distributed import world_size
from ..sampling import TaskSampler


class HalvesSampler(Sampler[list[int]]):
    """Batches of which the first half is drawn from the labeled cases and the second from the unlabeled ones.

    The draw is with replacement and depends on the seed and the epoch alone, as :class:`TaskSampler`'s does.

    Args:
        labeled: Labeled cases; at least one.
        unlabeled: Unlabeled cases, which follow the labeled ones in the index. Without any, a batch is its labeled half
            alone.
        batch_size: Number of patches in a batch, both halves together; even, at least 2.
        samples_per_epoch: Number of patches in an epoch, over all ranks; as many as there are cases by default.
        seed: Seed of the draw. 0 by default.

    Raises:
        ConfigError: When ``batch_size`` is odd or not positive.
        NotEnoughCasesError: Without labeled cases.
    """

    def __init__(
        self,
        labeled: Sequence[Any],
        unlabeled: Sequence[Any],
        batch_size: int,
        *,
        samples_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        if batch_size < 2 or batch_size % 2:
            raise ConfigError(f"batch_size is {batch_size}; half of a batch is labeled: give an even number from 2")
        if not labeled:
            raise NotEnoughCasesError("no labeled case to train on; add cases to dataset_dir")
        self.half, self.offset = batch_size // 2, len(labeled)
        total = samples_per_epoch or len(labeled) + len(unlabeled)
        self.batches = max(1, -(-total // (batch_size * world_size())))
        draws: dict[str, Any] = {"samples_per_epoch": self.batches * self.half * world_size(), "uniform_sampling": True}
        self.samplers = [TaskSampler(labeled, seed=2 * seed, **draws)]
        if unlabeled:
            self.samplers.append(TaskSampler(unlabeled, seed=2 * seed + 1, **draws))

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose batches the next iteration gives."""
        for sampler in self.samplers:
            sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        drawn = [[index + number * self.offset for index in part] for number, part in enumerate(self.samplers)]
        for start in range(0, self.batches * self.half, self.half):
            yield [index for part in drawn for index in part[start : start + self.half]]

    def __len__(self) -> int:
        return self.batches


def collate_halves(items: Sequence[dict[str, Tensor]], half: int) -> dict[str, Tensor]:
    """Returns ``image`` and ``label`` of the labeled half and ``unlabeled``, the images of the other half.

    Patches smaller than others, of small scans, are padded with zeros on both sides, so that all have one shape.

    Args:
        items: Patches of the batch; the first ``half`` have a label.
        half: Number of labeled patches.
    """
    sizes = torch.tensor([item["image"].shape[1:] for item in items])
    # Padding gives tensors with metadata, which would slow every operation of a step.
    pad = Compose([SpatialPad(sizes.amax(dim=0).tolist()), EnsureType(track_meta=False)])
    images = torch.stack([pad(item["image"]) for item in items])
    labels = torch.stack([pad(item["label"]) for item in items[:half]])
    batch = {"image": images[:half], "label": labels}
    return batch | {"unlabeled": images[half:]} if len(items) > half else batch


class HalvesLoader(DataLoader):
    """MONAI's data loader for batches of a labeled and an unlabeled half.

    Args:
        labeled: Dataset of dictionaries with ``image`` and ``label``; its ``data`` is the list of cases.
        unlabeled: Dataset of dictionaries with ``image``, perhaps empty.
        batch_size: Number of patches in a batch, both halves together; even, at least 2.
        samples_per_epoch: Number of patches in an epoch, see :class:`HalvesSampler`.
        seed: Seed of the draw. 0 by default.
        num_workers: Number of processes that load. 0, the default, loads in the process of the training.
    """

    def __init__(
        self,
        labeled: Any,
        unlabeled: Any,
        *,
        batch_size: int,
        samples_per_epoch: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        self.halves = HalvesSampler(
            labeled.data, unlabeled.data, batch_size, samples_per_epoch=samples_per_epoch, seed=seed
        )
        super().__init__(
            ConcatDataset([labeled, unlabeled]),
            num_workers=num_workers,
            batch_sampler=self.halves,
            collate_fn=partial(collate_halves, half=self.halves.half),
        )

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose batches the next iteration gives."""
        self.halves.set_epoch(epoch)
