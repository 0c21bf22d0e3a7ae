"""Mixed pairs: boxes around drawn classes, both directions, and labeled images among themselves."""

import pytest
import torch
from scipy.stats import chisquare
from torch.testing import assert_close

from common.class_weights import make_class_weight
from common.double_mix.boxes import boxes_around
from common.double_mix.losses import WeightedSegmentationLoss
from common.double_mix.mixing import make_mixing, mask_around_class
from common.double_mix.pairs import MixedPairs
from common.errors import ConfigError
from tests.common.cotrained import CLASSES, make_batch, make_pair, make_step


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def signed_pair(batch=4, seed=0):
    """Unlabeled images are positive and their labels 0 to 3, labeled ones negative with labels 4 to 7."""
    generator = seeded(seed)
    unlabeled, image = (1 + torch.rand(batch, 1, 8, 6, generator=generator) for _ in range(2))
    pseudo, label = (torch.randint(0, 4, (batch, 1, 8, 6), generator=generator) for _ in range(2))
    return unlabeled, pseudo, -image, label + 4


class TestBoxAroundClass:
    @pytest.mark.parametrize("share", [0.2, 1 / 3, 1.0])
    def test_box_holds_a_voxel_of_the_class_and_has_the_sides_asked_for(self, share):
        label = torch.zeros(200, 1, 12, 20, 1, dtype=torch.long)
        label[:, 0, 9, 2:5, 0] = 3
        boxes = boxes_around(label, torch.full((200,), 3), share, generator=seeded(1))
        assert boxes.shape == label.shape
        assert (boxes & (label == 3)).flatten(1).any(1).all()
        for box in boxes[:, 0]:
            sides = [int(box.movedim(axis, 0).flatten(1).any(1).sum()) for axis in range(3)]
            assert box.sum() == torch.tensor(sides).prod(), "in one piece"
            for side, extent in zip(sides, (12, 20, 1), strict=True):
                assert max(1, round(0.5 * share * extent)) <= side <= min(extent, round(1.5 * share * extent) or 1)

    def test_every_voxel_of_the_class_may_be_the_middle(self):
        label = torch.zeros(3000, 1, 30, dtype=torch.long)
        places = [4, 5, 20]
        label[:, :, places] = 1
        boxes = boxes_around(label, torch.ones(3000, dtype=torch.long), 0.1, spread=0.0, generator=seeded(2))
        middles = (boxes[:, 0].int() * torch.arange(30)).sum(1) / boxes[:, 0].sum(1)
        assert chisquare([int((middles == place).sum()) for place in places]).pvalue > 1e-3

    def test_classes_are_drawn_with_their_weights_and_background_only_where_nothing_else_is(self):
        label = torch.zeros(4000, 1, 30, dtype=torch.long)
        label[:2000, :, 10], label[:2000, :, 20] = 1, 2
        mask = mask_around_class(label, torch.tensor([5.0, 1.0, 3.0]), seeded(3), share=0.02)
        hit = [int(mask[:2000, 0, place].sum()) for place in (10, 20)]
        assert sum(hit) == 2000
        assert chisquare(hit, [500, 1500]).pvalue > 1e-3
        assert (mask[2000:].flatten(1).sum(1) == 1).all(), "a voxel of background"


class TestDirections:
    @pytest.mark.parametrize("batch", [1, 4, 5])
    def test_half_of_the_images_go_the_other_way(self, batch):
        unlabeled, pseudo, image, label = signed_pair(batch)
        pairs = MixedPairs(make_mixing("CutMix"), mix_direction="both", generator=seeded(4))
        counts = set()
        for _ in range(20):
            (mixed,), (target,) = pairs(unlabeled, [pseudo], image, label, [torch.ones(8)])
            # Each voxel comes with the label of the same place of the same image.
            assert torch.equal(torch.where(target < 4, unlabeled, image), mixed)
            assert torch.equal(torch.where(target < 4, pseudo, label), target)
            counts.add(int((pairs._reversed(image)).sum()))
        assert counts <= {batch // 2, batch - batch // 2}
        assert len(counts) == 1 + batch % 2

    def test_one_way_is_the_mixing_itself(self):
        unlabeled, pseudo, image, label = signed_pair()
        mixing, weights = make_mixing("Double-Mix"), [torch.ones(8), torch.arange(8.0)]
        images, labels = MixedPairs(mixing, generator=seeded(5))(unlabeled, [pseudo, pseudo], image, label, weights)
        generator = seeded(5)
        for index, weight in enumerate(weights):
            expected = mixing(unlabeled, pseudo, image, label, weight, generator=generator)
            assert torch.equal(images[index], expected[0])
            assert torch.equal(labels[index], expected[1])

    def test_classes_of_labeled_images_are_pasted_as_well(self):
        unlabeled, pseudo, image, label = signed_pair(batch=2)
        weight = torch.zeros(8)
        weight[6] = 1
        pairs = MixedPairs(make_mixing("Double-Mix"), mix_direction="both", generator=seeded(6))
        (mixed,), (target,) = pairs(unlabeled, [pseudo], image, label, [weight])
        into_unlabeled = [torch.equal(target[index] == 6, mixed[index] < 0) for index in range(2)]
        assert sorted(into_unlabeled) == [False, True], "one of two has class 6 of the labeled image, and only that"

    def test_direction_that_does_not_exist_is_refused(self):
        with pytest.raises(ConfigError, match="mix_direction is 'up'; accepted are into_labeled and both"):
            make_step(make_pair(), mixing="CutMix", mix_direction="up")


class TestLabeledAmongThemselves:
    def test_labeled_images_teach_mixed_until_others_do(self):
        network, batch = make_pair(), make_batch()
        step = make_step(network, mixing="CutMix", mixed_loss="dice_cross_entropy", mixed_weight=0.25, mix_labeled=True)
        pairs = MixedPairs(make_mixing("CutMix"), generator=torch.Generator().manual_seed(5))
        images, labels = pairs.among_labeled(batch["image"], batch["label"], [torch.ones(CLASSES)] * 2)
        terms = step.losses(network, batch, theta=0.0, mixes=False)
        loss, ones = WeightedSegmentationLoss(), make_class_weight("none", CLASSES).loss_weight()
        expected = sum(loss(*item, ones) for item in zip(network(*images), labels, strict=True))
        assert_close(terms["mixed"], 0.25 * expected)

    def test_one_labeled_image_is_not_learned_twice(self):
        network, batch = make_pair(), make_batch()
        step = make_step(network, mixing="CutMix", mixed_weight=0.25, mix_labeled=True)
        alone = {name: item[:1] for name, item in batch.items()}
        assert float(step.losses(network, alone, theta=0.0, mixes=False)["mixed"]) == 0.0

    def test_each_image_gets_parts_of_the_one_before(self):
        image = torch.arange(1.0, 4).reshape(3, 1, 1, 1).expand(3, 1, 8, 8)
        label = image.long()
        pairs = MixedPairs(make_mixing("CutMix"), mix_direction="both", generator=seeded(7))
        (mixed,), (target,) = pairs.among_labeled(image, label, [torch.ones(4)])
        assert torch.equal(mixed.long(), target)
        for part, own, before in zip(mixed, (1, 2, 3), (3, 1, 2), strict=True):
            assert set(part.unique().tolist()) == {own, before}

    def test_without_it_nothing_is_mixed_before_its_time(self):
        network, batch = make_pair(), make_batch()
        step = make_step(network, mixing="CutMix")
        assert float(step.losses(network, batch, theta=0.0, mixes=False)["mixed"]) == 0
