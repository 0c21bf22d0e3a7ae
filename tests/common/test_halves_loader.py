"""How both halves of a batch are drawn and put together."""

from collections import Counter

import pytest
import torch
from ignite.engine import Engine
from monai.data import CacheDataset
from monai.transforms import Compose, RandSpatialCropd
from scipy.stats import chisquare
from torch.testing import assert_close

from common import sampling
from common.augmentation import AugmentBatch, BatchAugmentation
from common.double_mix import loader as halves
from common.double_mix.loader import HalvesLoader, HalvesSampler, collate_halves
from common.errors import ConfigError, NotEnoughCasesError
from common.handlers import ChangeBatch, EpochSeeder


class TestSampler:
    def batches(self, labeled=3, unlabeled=9, batch_size=4, epoch=0, **settings):
        sampler = HalvesSampler([{}] * labeled, [{}] * unlabeled, batch_size, **settings)
        sampler.set_epoch(epoch)
        return list(sampler)

    def test_first_half_is_labeled_and_the_second_is_not(self):
        batches = self.batches(samples_per_epoch=400)
        assert len(batches) == 100
        assert all(len(batch) == 4 and max(batch[:2]) < 3 <= min(batch[2:]) for batch in batches)
        counts = Counter(index for batch in batches for index in batch)
        assert chisquare([counts[index] for index in range(3)]).pvalue > 1e-3
        assert chisquare([counts[index] for index in range(3, 12)]).pvalue > 1e-3

    def test_an_epoch_sees_as_many_patches_as_there_are_cases(self):
        assert len(self.batches()) == 3
        assert len(self.batches(labeled=4)) == 4
        assert len(self.batches(samples_per_epoch=1)) == 1

    def test_smallest_batch_is_one_of_each(self):
        assert all(len(batch) == 2 and batch[0] < 3 <= batch[1] for batch in self.batches(batch_size=2))

    @pytest.mark.parametrize("seed", range(6))
    def test_both_halves_are_drawn_apart(self, seed):
        batches = self.batches(labeled=9, unlabeled=9, samples_per_epoch=80, seed=seed)
        assert [batch[:2] for batch in batches] != [[index - 9 for index in batch[2:]] for batch in batches]

    def test_draw_depends_on_seed_and_epoch_alone(self):
        assert self.batches(seed=1, epoch=2) == self.batches(seed=1, epoch=2)
        assert self.batches(seed=1, epoch=2) != self.batches(seed=1, epoch=3)
        for half in (slice(2), slice(2, 4)):
            drawn = [[batch[half] for batch in self.batches(seed=seed, samples_per_epoch=80)] for seed in (1, 2)]
            assert drawn[0] != drawn[1]

    def test_without_unlabeled_cases_batches_are_halves(self):
        batches = self.batches(unlabeled=0, samples_per_epoch=8)
        assert [len(batch) for batch in batches] == [2, 2]

    def test_ranks_share_an_epoch_out(self, ranks, monkeypatch):
        whole = self.batches(batch_size=2, samples_per_epoch=16)
        monkeypatch.setattr(halves, "world_size", lambda: 2)
        parts = []
        for rank in (0, 1):
            ranks(sampling, rank, 2)
            parts.append(self.batches(batch_size=2, samples_per_epoch=16))
        assert [len(part) for part in parts] == [4, 4]
        together = sorted(index for part in parts for batch in part for index in batch)
        assert together == sorted(index for batch in whole for index in batch)

    @pytest.mark.parametrize("size", [0, 1, 3, -2])
    def test_batch_sizes_without_halves_are_refused(self, size):
        with pytest.raises(ConfigError, match=f"batch_size is {size}; half of a batch is labeled: give an even number"):
            self.batches(batch_size=size)

    def test_no_labeled_case_is_refused(self):
        with pytest.raises(NotEnoughCasesError, match="no labeled case to train on"):
            self.batches(labeled=0)


class TestLoader:
    def item(self, value, *, labeled, shape=(4, 6)):
        image = {"image": torch.full((1, *shape), float(value))}
        return image | {"label": torch.full((1, *shape), value, dtype=torch.uint8)} if labeled else image

    def test_patches_of_several_sizes_are_padded_to_one_in_each_half(self):
        items = [self.item(1, labeled=True), self.item(2, labeled=True, shape=(6, 4)), self.item(3, labeled=False)]
        batch = collate_halves([*items, self.item(4, labeled=False)], 2)
        assert {name: tuple(value.shape) for name, value in batch.items()} == {
            "image": (2, 1, 6, 6), "label": (2, 1, 6, 6), "unlabeled": (2, 1, 4, 6),
        }  # fmt: skip
        assert batch["label"].dtype == torch.uint8
        assert {type(value) for value in batch.values()} == {torch.Tensor}, "without metadata"
        assert_close(batch["image"], batch["label"].float())
        assert batch["image"][0].sum() == 24
        assert batch["image"][0, 0, 1:5].min() == 1
        assert batch["unlabeled"].amax((1, 2, 3)).tolist() == [3, 4]

    @pytest.mark.parametrize(("settings", "seed"), [({}, 0), ({"seed": 5}, 5)])
    def test_loader_draws_by_its_seed(self, settings, seed):
        parts = [CacheDataset([self.item(i, labeled=True) for i in range(9)], None, progress=False) for _ in range(2)]
        loader = HalvesLoader(*parts, batch_size=4, samples_per_epoch=40, **settings)
        loader.set_epoch(2)
        expected = HalvesSampler(parts[0].data, parts[1].data, 4, samples_per_epoch=40, seed=seed)
        expected.set_epoch(2)
        assert list(loader.halves) == list(expected)

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_loader_gives_both_halves(self, num_workers):
        labeled = CacheDataset([self.item(i, labeled=True) for i in range(3)], None, progress=False)
        unlabeled = CacheDataset([self.item(10 + i, labeled=False) for i in range(5)], None, progress=False)
        loader = HalvesLoader(labeled, unlabeled, batch_size=4, samples_per_epoch=12, num_workers=num_workers)
        loader.set_epoch(1)
        batches = list(loader)
        assert len(batches) == len(loader) == 3
        for batch in batches:
            assert batch["image"].max() < 3
            assert batch["unlabeled"].min() >= 10
            assert_close(batch["image"], batch["label"].float())

    def test_loader_without_unlabeled_cases_gives_no_unlabeled_half(self):
        labeled = CacheDataset([self.item(i, labeled=True) for i in range(3)], None, progress=False)
        loader = HalvesLoader(labeled, CacheDataset([], None, progress=False), batch_size=2)
        assert all(set(batch) == {"image", "label"} for batch in loader)

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_draws_for_labeled_images_do_not_depend_on_unlabeled_ones(self, num_workers):
        """Arms of an experiment: which cases, which crops, and what the augmentation draws, over two epochs."""

        def labeled_half(unlabeled):
            transform = Compose(
                [RandSpatialCropd(["image", "label"], [3, 3], random_size=False, allow_missing_keys=True)]
            )
            scans = torch.arange(400.0).reshape(4, 1, 10, 10)
            labeled = CacheDataset([{"image": scan, "label": scan} for scan in scans], transform, progress=False)
            others = CacheDataset([{"image": scan} for scan in unlabeled], transform, progress=False)
            loader = HalvesLoader(labeled, others, batch_size=6, samples_per_epoch=24, seed=3, num_workers=num_workers)
            seeder, seen = EpochSeeder(3, transform), []
            engine = Engine(lambda engine, batch: seen.extend([engine.state.batch["image"], batch["label"]]))
            engine.data_loader, engine.state.device = loader, torch.device("cpu")
            seeder.attach(engine)
            changes = BatchAugmentation(2, rotation=20, gain=0.1, noise=0.2)
            ChangeBatch(AugmentBatch(changes), seed=3).attach(engine)
            engine.run(loader, max_epochs=2)
            return seen

        alone = labeled_half([])
        assert len(alone) == 2 * 4 * 2
        assert not torch.equal(alone[1], alone[9]), "epochs differ"
        for scans in (torch.rand(5, 1, 10, 10), torch.rand(3, 1, 12, 3)):
            for mine, other in zip(alone, labeled_half(scans), strict=True):
                assert_close(mine, other, rtol=0, atol=0)

    def test_crops_of_unlabeled_images_follow_seed_and_epoch(self):
        def crops(seed, epoch):
            transform = Compose([RandSpatialCropd("image", [3, 3], random_size=False)])
            scans = [{"image": torch.arange(900.0).reshape(1, 30, 30)} for _ in range(4)]
            labeled = CacheDataset([{"image": scan["image"], "label": scan["image"]} for scan in scans], transform)
            loader = HalvesLoader(labeled, CacheDataset(scans, transform, progress=False), batch_size=8, seed=seed)
            loader.set_epoch(epoch)
            return next(iter(loader))["unlabeled"]

        assert torch.equal(crops(1, 2), crops(1, 2))
        assert not torch.equal(crops(1, 2), crops(1, 3))
        assert not torch.equal(crops(1, 2), crops(2, 2))
