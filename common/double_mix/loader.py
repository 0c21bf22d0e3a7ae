"""Makes batches of a labeled and an unlabeled half."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy, deepcopy
from functools import partial
from typing import Any

import torch
from monai.data import DataLoader
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import ConcatDataset, Sampler

from ..errors import ConfigError, NotEnoughCasesError
from ..runtime.distributed import process_rank, world_size
from ..runtime.seeds import step_generator
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


def pad_alike(images: Sequence[Tensor], *, spatial_dims: int) -> list[Tensor]:
    """Returns images padded with zeros, as much on both sides, so that all have the largest extent along every axis.

    Args:
        images: Images or batches of them, whose last axes are spatial.
        spatial_dims: Number of spatial axes.

    Example:
        >>> [image.shape for image in pad_alike([torch.zeros(1, 2, 5), torch.zeros(1, 4, 3)], spatial_dims=2)]
        [torch.Size([1, 4, 5]), torch.Size([1, 4, 5])]
    """
    extents = [image.shape[-spatial_dims:] for image in images]
    largest = [max(sizes) for sizes in zip(*extents, strict=True)]
    padded = []
    for image, extent in zip(images, extents, strict=True):
        missing = [whole - own for whole, own in zip(largest, extent, strict=True)]
        # Torch counts axes from the last one.
        widths = [width for rest in reversed(missing) for width in (rest // 2, rest - rest // 2)]
        padded.append(pad(image, widths) if any(missing) else image)
    return padded


def collate_halves(items: Sequence[dict[str, Tensor]], half: int) -> dict[str, Tensor]:
    """Returns ``image`` and ``label`` of the labeled half and ``unlabeled``, the images of the other half.

    Patches smaller than others of their half, of small scans, are padded with zeros on both sides. The halves may
    differ in size: what is drawn for the labeled one later must not depend on the other.

    Args:
        items: Patches of the batch; the first ``half`` have a label.
        half: Number of labeled patches.
    """
    parts = {"image": items[:half], "label": items[:half], "unlabeled": items[half:]}
    keys = {"image": "image", "label": "label", "unlabeled": "image"}
    return {
        name: torch.stack(pad_alike([item[keys[name]] for item in part], spatial_dims=part[0]["image"].ndim - 1))
        for name, part in parts.items()
        if part
    }


class HalvesLoader(DataLoader):
    """MONAI's data loader for batches of a labeled and an unlabeled half.

    The unlabeled set gets random transforms of its own. So what is drawn for labeled images is the same whether
    unlabeled ones are loaded or not, and methods that learn from them compare with one that does not.

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
        self.seed, others = seed, copy(unlabeled)
        self.transform = others.transform = deepcopy(unlabeled.transform)
        super().__init__(
            ConcatDataset([labeled, others]),
            num_workers=num_workers,
            batch_sampler=self.halves,
            collate_fn=partial(collate_halves, half=self.halves.half),
        )

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose batches the next iteration gives, and seeds what is drawn for unlabeled images."""
        self.halves.set_epoch(epoch)
        if hasattr(self.transform, "set_random_state"):
            numbers = step_generator(self.seed, epoch, process_rank())
            self.transform.set_random_state(seed=int(torch.randint(2**31 - 1, (1,), generator=numbers)))
