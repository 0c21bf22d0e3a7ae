"""Draws samples of several data sets at once (multi-task training)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from monai.data import DataLoader, pad_list_data_collate
from torch import Tensor
from torch.utils.data import Sampler, Subset

from .errors import ConfigError, LabelError, NotEnoughCasesError
from .runtime.distributed import process_rank, world_size


def task_probabilities(sizes: Sequence[int]) -> Tensor:
    """Returns the probability of drawing from each data set, proportional to the square root of its size.

    Karimi and Gholipour 2023, section III-C; equivalently every image has weight ``1 / sqrt(n_k)``.

    Args:
        sizes: Number of images of each data set, ``n_k``, at least 1 each.

    Returns:
        ``(K,)`` float64 that sums to 1.

    Raises:
        ConfigError: When there is no data set or one is empty.

    Example:
        >>> task_probabilities([10, 100])
        tensor([0.2403, 0.7597], dtype=torch.float64)
    """
    if not len(sizes) or min(sizes) < 1:
        raise ConfigError(f"sizes {list(sizes)} must be positive, one for each data set")
    roots = torch.tensor(list(sizes), dtype=torch.float64).sqrt()
    return roots / roots.sum()


def samples_of_epoch(
    samples_per_epoch: int | None,
    iterations: int | None,
    *,
    max_epochs: int,
    batch_size: int,
    names: Sequence[str] = ("iterations", "max_epochs"),
) -> int | None:
    """Returns how many images an epoch draws where a training counts iterations in place of passes over its cases.

    Args:
        samples_per_epoch: Number of images in an epoch; ``None`` for as many as there are.
        iterations: Number of steps of the whole training, at least 1; ``None`` where epochs have the length of their
            own.
        max_epochs: Number of epochs that share the steps, at least 1; where they do not share evenly, the training has
            up to ``max_epochs - 1`` steps more.
        batch_size: Number of images in a step, over one process.
        names: Names in errors of the options that give the steps and the epochs, where a training has several parts.
            Default those of the arguments.

    Raises:
        ConfigError: When both are given, or there is no step.

    Example:
        >>> samples_of_epoch(None, 900, max_epochs=10, batch_size=4)
        360
    """
    if iterations is None:
        return samples_per_epoch
    if iterations < 1 or samples_per_epoch is not None or max_epochs < 1:
        raise ConfigError(
            f"{names[0]} is {iterations}, samples_per_epoch {samples_per_epoch} and {names[1]} {max_epochs}; accepted "
            "are steps and epochs from 1, with samples_per_epoch null"
        )
    return -(-iterations // max_epochs) * batch_size * world_size()


class TaskSampler(Sampler[int]):
    """Draws a data set by :func:`task_probabilities`, then one of its images uniformly, with replacement.

    The draw depends on the seed and the epoch alone, so a resumed run draws as an uninterrupted one. Under distributed
    training every rank draws the same list and takes every ``world size``-th of it.

    Args:
        data: List of cases; ``task`` tells the data set, a case without one belongs to a common one.
        seed: Seed of the generator that draws; the same seed gives the same lists. 0 by default.
        samples_per_epoch: Number of images in an epoch, over all ranks; as many as there are cases by default.
        uniform_sampling: Whether every image is drawn with the same probability instead, the paper's ablation; false by
            default.
    """

    def __init__(
        self,
        data: Sequence[Any],
        *,
        seed: int = 0,
        samples_per_epoch: int | None = None,
        uniform_sampling: bool = False,
    ) -> None:
        tasks = [str(case.get("task", "")) for case in data]
        names = sorted(set(tasks))
        sizes = torch.tensor([tasks.count(name) for name in names], dtype=torch.float64)
        shares = sizes / sizes.sum() if uniform_sampling else task_probabilities([int(size) for size in sizes])
        each = dict(zip(names, (shares / sizes).tolist(), strict=True))
        self.weights = torch.tensor([each[task] for task in tasks], dtype=torch.float64)
        self.seed = seed
        self.epoch = 0
        self.world_size, self.rank = world_size(), process_rank()
        self.num_samples = -(-(samples_per_epoch or len(tasks)) // self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose list the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
        total = self.num_samples * self.world_size
        drawn = torch.multinomial(self.weights, total, replacement=True, generator=generator)
        return iter(drawn[self.rank :: self.world_size].tolist())

    def __len__(self) -> int:
        return self.num_samples


class PatchSampler(Sampler[int]):
    """Draws chosen patches in random order, each once before any comes again.

    The order depends on the seed and the epoch alone; under distributed training every rank takes its share of it.

    Args:
        data: Patches, of which the first ``num_original`` are chosen at the start, see ``PatchDataset``.
        seed: Seed of the generator that draws the order; the same seed gives the same order. 0 by default.
        samples_per_epoch: Number of patches in an epoch, over all ranks; as many as are chosen by default. A fixed
            number gives equal epochs to training sets of different sizes.
    """

    def __init__(self, data: Any, *, seed: int = 0, samples_per_epoch: int | None = None) -> None:
        self.data, self.seed, self.total = data, seed, samples_per_epoch
        self.epoch = 0
        self.world_size, self.rank = world_size(), process_rank()
        self._chosen: Sequence[int] | None = None

    @property
    def chosen(self) -> Sequence[int]:
        """Numbers of the patches that are drawn from."""
        return range(self.data.num_original) if self._chosen is None else self._chosen

    def choose(self, indices: Sequence[int]) -> None:
        """Sets the numbers of the patches that are drawn from.

        Raises:
            NotEnoughCasesError: When there is none.
        """
        if not len(indices):
            raise NotEnoughCasesError("no patch to train on; add cases to dataset_dir")
        self._chosen = list(indices)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
        needed, chosen = len(self) * self.world_size, torch.as_tensor(self.chosen)
        rounds = -(-needed // len(chosen))
        order = torch.cat([torch.randperm(len(chosen), generator=generator) for _ in range(rounds)])
        return iter(chosen[order][self.rank : needed : self.world_size].tolist())

    def __len__(self) -> int:
        return -(-(self.total or len(self.chosen)) // self.world_size)


class ShardSampler(Sampler[int]):
    """Shares a validation set out over the ranks, in order and without repeating a case.

    MONAI's ``DistributedSampler`` refuses sets with fewer cases than ranks; there, every rank takes all of them, which
    leaves every mean as it is.

    Args:
        data: Cases of the validation set.
    """

    def __init__(self, data: Sequence[Any]) -> None:
        everything = range(len(data))
        shared = len(data) >= world_size()
        self.indices = list(everything[process_rank() :: world_size()] if shared else everything)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def task_loader(
    dataset: Any,
    *,
    batch_size: int,
    seed: int = 0,
    samples_per_epoch: int | None = None,
    uniform_sampling: bool = False,
    num_workers: int = 0,
) -> DataLoader:
    """Returns the loader of a training set that :class:`TaskSampler` draws from; images of one batch are padded alike.

    Args:
        dataset: The set; its ``data`` are the cases.
        batch_size: Number of images in a batch, at least 1.
        seed: Seed of the draw. Default 0.
        samples_per_epoch: Number of images in an epoch, over all ranks. Default as many as there are cases.
        uniform_sampling: Whether every image is drawn with the same probability. Default false.
        num_workers: Number of processes that load data; 0 loads in the main process. Default 0.
    """
    sampler = TaskSampler(
        dataset.data, seed=seed, samples_per_epoch=samples_per_epoch, uniform_sampling=uniform_sampling
    )
    pad = pad_list_data_collate
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=num_workers, collate_fn=pad)


def patch_loader(
    dataset: Any, *, batch_size: int, seed: int = 0, samples_per_epoch: int | None = None, num_workers: int = 0
) -> DataLoader:
    """Returns the loader of a training set that :class:`PatchSampler` draws from.

    Args:
        dataset: The set, see :class:`PatchSampler`.
        batch_size: Number of patches in a batch, at least 1.
        seed: Seed of the order. Default 0.
        samples_per_epoch: Number of patches in an epoch, over all ranks. Default as many as are chosen.
        num_workers: Number of processes that load data; 0 loads in the main process. Default 0.
    """
    sampler = PatchSampler(dataset, seed=seed, samples_per_epoch=samples_per_epoch)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=num_workers)


def spread_evenly(number: int, most: int | None) -> list[int]:
    """Returns places evenly spread over a list.

    Args:
        number: Length of the list, at least 0.
        most: Largest number of places, at least 1; ``None`` for all.

    Raises:
        ConfigError: When ``most`` is below 1.

    Example:
        >>> spread_evenly(10, 3), spread_evenly(2, 3)
        ([0, 3, 6], [0, 1])
    """
    if most is None:
        return list(range(number))
    if most < 1:
        raise ConfigError(f"val_cases is {most}; accepted are numbers from 1, or none for all")
    taken = min(most, number)
    return [place * number // taken for place in range(taken)]


def validation_loader(
    dataset: Any, *, batch_size: int = 1, val_cases: int | None = None, num_workers: int = 0
) -> DataLoader:
    """Returns the loader of a validation set, in order, shared out over the ranks by :class:`ShardSampler`.

    Args:
        dataset: The set.
        batch_size: Number of cases that are loaded together, at least 1. Default 1.
        val_cases: Largest number of cases that are loaded, at least 1: evenly spread over those with foreground and
            those without, so that some foreground is among them where there is any. Default all.
        num_workers: Number of processes that load data; 0 loads in the main process. Default 0.

    Raises:
        ConfigError: When ``val_cases`` is below 1.
        LabelError: When no label of the set holds foreground, so that no weights could be told to be better.
    """
    if len(dataset) and not any(_has_foreground(dataset[place]) for place in range(len(dataset))):
        raise LabelError(
            f"the labels of all {len(dataset)} validation case(s) hold no foreground, so no weights could be chosen by "
            "them; check labels and foreground_labels, or give another seed, a larger val_fraction or a split_file"
        )
    chosen: Any = dataset
    if val_cases is not None:
        # The first place is always taken, so a case with foreground stands there.
        order = sorted(range(len(dataset)), key=lambda place: not _has_foreground(dataset[place]))
        chosen = Subset(dataset, sorted(order[place] for place in spread_evenly(len(dataset), val_cases)))
    return DataLoader(chosen, batch_size=batch_size, sampler=ShardSampler(chosen), num_workers=num_workers)


def _has_foreground(case: Any) -> bool:
    """Whether the label of a loaded case holds any class; true of what has no label."""
    return not isinstance(case, Mapping) or "label" not in case or bool((torch.as_tensor(case["label"]) > 0).any())
