"""The sampler's guarantee, and the batches that follow from it."""

import numpy as np
import pytest
import torch
from monai.data import Dataset
from torch.testing import assert_close

from common.contrast import positive_pairs
from common.contrast.loader import PairBatchSampler, PairLoader, Partners
from common.contrast.presence import PresenceReader, presence_table
from common.errors import ConfigError, NotEnoughCasesError


def skewed(count=300, seed=0, phases=True):
    """Frames of which most show one set of classes, few another, and some one that no other shows."""
    rng = np.random.default_rng(seed)
    sets = [(1,), (1, 2), (2, 3), (1, 2, 3), ()]
    chosen = rng.choice(len(sets), count, p=[0.8, 0.15, 0.03, 0.015, 0.005])
    cases = [{"image": f"{n}.png", "case": str(n), "present": list(sets[kind])} for n, kind in enumerate(chosen)]
    cases[7]["present"], cases[250]["present"] = [4], [3, 4]
    for case in cases if phases else ():
        if rng.random() < 0.7:
            case["phase"] = f"phase {rng.choice(6, p=[0.6, 0.2, 0.1, 0.05, 0.03, 0.02])}"
    return cases


def make_sampler(cases, num_labeled=30, batch_size=16, **settings):
    table, phase = presence_table(cases, 5)
    partners = Partners(table, phase, num_labeled)
    return PairBatchSampler(cases, num_labeled, batch_size, partners=partners, **settings), table, phase


class TestGuarantee:
    @pytest.mark.parametrize(
        ("num_labeled", "batch_size", "share", "phases"),
        [(30, 16, 0.5, True), (3, 8, 0.5, False), (30, 8, 0.25, True), (300, 4, 0.5, True)],
    )
    def test_every_frame_finds_a_positive_over_a_thousand_batches(self, num_labeled, batch_size, share, phases):
        cases = skewed(phases=phases)
        settings = {"labeled_batch_fraction": share, "samples_per_epoch": 1000 * batch_size}
        sampler, table, phase = make_sampler(cases, num_labeled, batch_size, **settings)
        alone = ~positive_pairs(table, phase).any(dim=1)
        batches = list(sampler)
        assert len(batches) == len(sampler) == 1000
        without = 0
        for batch in batches:
            found = positive_pairs(table[batch], phase[batch]).any(dim=1)
            without += int((~found & ~alone[batch]).sum())
        assert without == 0
        assert alone.any(), "the data hold frames without a partner"
        sizes = {len(batch) for batch in batches}
        labeled = max(1, round(share * batch_size))
        assert sizes == {batch_size if num_labeled < 300 else labeled}
        assert {sum(index < num_labeled for index in batch) for batch in batches} == {labeled}

    def test_draw_without_regard_to_pairs_would_not_do(self):
        """What the test above finds is not there by itself."""
        cases = skewed()
        table, phase = presence_table(cases, 5)
        alone = ~positive_pairs(table, phase).any(dim=1)
        sampler = PairBatchSampler(cases, 30, 16, samples_per_epoch=1600)
        found = [positive_pairs(table[batch], phase[batch]).any(dim=1) | alone[batch] for batch in sampler]
        assert sum(int((~item).sum()) for item in found) > 50

    def test_every_frame_is_drawn_sooner_or_later(self):
        sampler, _, _ = make_sampler(skewed(), samples_per_epoch=16_000)
        assert {index for batch in sampler for index in batch} == set(range(300))

    @pytest.mark.parametrize(("num_labeled", "share"), [(30, 0.5), (150, 0.9), (2, 0.25)])
    def test_all_methods_learn_from_the_same_labeled_frames(self, num_labeled, share):
        cases = skewed()
        settings = {"labeled_batch_fraction": share, "samples_per_epoch": 1600, "seed": 3}
        paired, table, phase = make_sampler(cases, num_labeled, **settings)
        plain = PairBatchSampler(cases, num_labeled, 16, **settings)
        without = {True: 0, False: 0}
        for first, second in zip(paired, plain, strict=True):
            assert [n for n in first if n < num_labeled] == [n for n in second if n < num_labeled]
            for sampler, batch in ((True, first), (False, second)):
                without[sampler] += int((~positive_pairs(table[batch], phase[batch]).any(dim=1)).sum())
        assert without[True] < without[False] / 2

    def test_labeled_frames_are_not_replaced_where_no_other_fits(self):
        cases = [{"image": str(n), "present": [1 + (n >= 2)]} for n in range(6)]
        sampler, _, _ = make_sampler(cases, 2, 2, samples_per_epoch=100)
        assert all(sum(index < 2 for index in batch) == 1 for batch in sampler)

    def test_labeled_frames_come_first(self):
        sampler, _, _ = make_sampler(skewed(), samples_per_epoch=320)
        for batch in sampler:
            kinds = [index < 30 for index in batch]
            assert kinds == sorted(kinds, reverse=True)


class TestPartners:
    def test_partners_are_the_positives_and_never_the_frame_itself(self):
        cases = skewed()[:60]
        table, phase = presence_table(cases, 5)
        partners, positive = Partners(table, phase, 20), positive_pairs(table, phase)
        rng = np.random.default_rng(0)
        for frame in range(60):
            for labeled, numbers in ((True, range(20)), (False, range(20, 60))):
                expected = {other for other in numbers if positive[frame, other]}
                drawn = {partners.draw(frame, rng, labeled=labeled) for _ in range(40)}
                assert drawn - {None} <= expected
                assert (drawn == {None}) == (not expected)
        assert partners.lonely() == (~positive.any(dim=1)).nonzero().flatten().tolist()

    def test_partners_are_drawn_uniformly(self):
        table, phase = torch.ones(5, 1), torch.full((5,), -1)
        partners, rng = Partners(table, phase, 5), np.random.default_rng(0)
        counts = np.bincount([partners.draw(2, rng, labeled=True) for _ in range(4000)], minlength=5)
        assert counts[2] == 0
        assert np.abs(counts[[0, 1, 3, 4]] - 1000).max() < 150


class TestSampler:
    def test_same_seed_and_epoch_give_the_same_batches(self):
        first, second = (make_sampler(skewed(), samples_per_epoch=160, seed=4)[0] for _ in range(2))
        assert list(first) == list(second)
        first.set_epoch(1)
        assert list(first) != list(second)
        second.set_epoch(1)
        assert list(first) == list(second)

    def test_fixed_number_of_frames_gives_equal_epochs_to_all_methods(self):
        cases = skewed()
        lengths = [len(PairBatchSampler(cases[:n], 30, 16, samples_per_epoch=160)) for n in (30, 300)]
        assert lengths == [10, 10]

    def test_ranks_share_an_epoch(self, monkeypatch):
        cases = skewed()
        for module in ("common.contrast.loader", "common.sampling"):
            monkeypatch.setattr(f"{module}.world_size", lambda: 2)
        drawn = []
        for rank in range(2):
            for module in ("common.contrast.loader", "common.sampling"):
                monkeypatch.setattr(f"{module}.process_rank", lambda rank=rank: rank)
            drawn.append(list(make_sampler(cases, samples_per_epoch=320)[0]))
        assert [len(batches) for batches in drawn] == [10, 10]
        assert drawn[0] != drawn[1]

    @pytest.mark.parametrize(
        ("settings", "text"),
        [
            ({"batch_size": 1}, "batch_size is 1; a pair needs two frames"),
            ({"labeled_batch_fraction": 0}, "labeled_batch_fraction is 0; accepted is above 0, up to 1"),
            ({"labeled_batch_fraction": 1.5}, "labeled_batch_fraction is 1.5; accepted is above 0, up to 1"),
        ],
    )
    def test_settings_that_are_not_accepted(self, settings, text):
        with pytest.raises(ConfigError, match=text):
            make_sampler(skewed(), **settings)

    def test_no_labeled_frame(self):
        with pytest.raises(NotEnoughCasesError, match="no labeled frame to train on; add cases"):
            make_sampler(skewed(), 0)


class TestLoader:
    def test_batches_hold_classes_phases_and_the_labels_of_the_first_frames(self):
        cases = skewed()[:40]
        data = [{"image": torch.full((3, 4, 4), float(n)), "label": torch.full((1, 4, 4), n)} for n in range(40)]
        labeled = make_dataset(cases[:8], data[:8])
        others = make_dataset(cases[8:], [{"image": item["image"]} for item in data[8:]])
        presence = PresenceReader(5)
        loader = PairLoader(labeled, others, presence=presence, num_classes=5, batch_size=8, samples_per_epoch=40)
        table, phase = presence_table(cases, 5)
        batches = list(loader)
        assert len(batches) == 5
        for batch in batches:
            numbers = batch["image"][:, 0, 0, 0].long()
            assert_close(batch["label"][:, 0, 0, 0], numbers[:4])
            assert bool((numbers[:4] < 8).all())
            assert bool((numbers[4:] >= 8).all())
            assert_close(batch["presence"], table[numbers])
            assert_close(batch["phase"], phase[numbers])


class Listed(Dataset):
    """Prepared items beside their cases, as a cached data set has them."""

    def __init__(self, cases, items):
        super().__init__(cases)
        self.items = items

    def __getitem__(self, index):
        return dict(self.items[index])


def make_dataset(cases, items):
    return Listed(cases, items)
