"""Bidirectional copy-paste: boxes, largest components, losses of regions, and the step, against slow references."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from scipy.ndimage import label as connect
from torch.testing import assert_close

from common.double_mix import make_step
from common.double_mix.boxes import box_masks, draw_corners, random_boxes_of_share
from common.double_mix.components import LargestComponentsd, largest_components, without_smaller_components
from common.double_mix.losses import WeightedSegmentationLoss, regional_dice_loss, weighted_cross_entropy
from common.double_mix.network import CoTrainedPair, SingleStudent
from common.double_mix.rivals.bcp import BCPStep, paste_both_ways
from common.errors import ConfigError
from common.networks.averaging import EMANetwork
from tests.common.cotrained import CLASSES, make_batch, make_trainer, tiny_network


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_network(students=1, seed=0):
    torch.manual_seed(seed)
    return (CoTrainedPair if students == 2 else SingleStudent)(tiny_network).train()


def make_bcp(network, **settings):
    loss = WeightedSegmentationLoss(cross_entropy_share=1.0)
    return BCPStep(network, loss, ema=EMANetwork(network), generator=seeded(5), **settings)


class TestBoxes:
    def test_box_equals_a_loop_over_voxels(self):
        corners = torch.tensor([[0, 2, 1], [3, 0, 0]])
        masks = box_masks((5, 4, 2), (2, 2, 1), corners)
        assert masks.shape == (2, 1, 5, 4, 2)
        for number, *voxel in torch.cartesian_prod(*map(torch.arange, (2, 5, 4, 2))).tolist():
            inside = all(
                corner <= at < corner + side
                for corner, at, side in zip(corners[number].tolist(), voxel, (2, 2, 1), strict=True)
            )
            assert bool(masks[(number, 0, *voxel)]) == inside

    def test_every_place_is_drawn_and_none_outside(self):
        corners = draw_corners((5, 3), (3, 3), 500, generator=seeded())
        assert set(corners[:, 0].tolist()) == {0, 1, 2}
        assert set(corners[:, 1].tolist()) == {0}

    @pytest.mark.parametrize(("shape", "voxels"), [((9, 12), 6 * 8), ((9, 12, 1), 6 * 8), ((3, 3, 3), 8)])
    def test_sides_are_a_share_of_the_image(self, shape, voxels):
        boxes = random_boxes_of_share(torch.zeros(4, 1, *shape), 2 / 3, generator=seeded())
        assert boxes.flatten(1).sum(1).tolist() == [voxels] * 4

    def test_pasting_goes_both_ways(self):
        inner, outer = torch.full((2, 1, 2, 2), 7), torch.zeros(2, 1, 2, 2, dtype=torch.long)
        box = torch.tensor([[[[1, 0], [0, 0]]], [[[0, 0], [1, 1]]]], dtype=torch.bool)
        pasted = paste_both_ways(inner, outer, box)
        assert torch.equal(pasted[:2], 7 * box)
        assert torch.equal(pasted[2:], 7 * ~box)


class TestLargestComponents:
    @pytest.mark.parametrize("shape", [(12, 11), (7, 6, 5)])
    def test_equals_a_slow_reference(self, shape):
        labels = torch.randint(0, 5, (3, 1, *shape), generator=seeded(1))
        labels[labels == 4] = 0
        expected = np.zeros_like(labels.numpy())
        for index, image in enumerate(labels[:, 0].numpy()):
            for number in (1, 2, 3):
                parts, count = connect(image == number, structure=np.ones([3] * len(shape)))
                masks = [parts == part for part in range(1, count + 1)]
                expected[index, 0][max(masks, key=np.sum)] = number
        kept = largest_components(labels)
        assert torch.equal(kept, torch.from_numpy(expected))
        assert not torch.equal(kept, labels)

    def test_images_without_foreground_and_the_given_labels_stay(self):
        labels = torch.zeros(2, 1, 4, 4, dtype=torch.long)
        labels[1, 0, 0, 0] = labels[1, 0, 3, 3] = 2
        before = labels.clone()
        kept = largest_components(labels)
        assert torch.equal(labels, before)
        assert kept.nonzero().tolist() == [[1, 0, 0, 0]], "of two of one size, the first"


class TestProbabilities:
    def test_smaller_components_go_to_the_background(self):
        labels = torch.tensor([[[1, 1, 0, 1, 2]]])
        probabilities = torch.full((3, 1, 5), 0.2).scatter(0, labels, 0.6)
        kept = LargestComponentsd("pred")({"pred": probabilities})["pred"]
        assert kept.argmax(dim=0).tolist() == [[1, 1, 0, 0, 2]]
        # What the other classes have stays, and all still sum to one.
        assert_close(kept[:, 0, 3], torch.tensor([0.8, 0.0, 0.2]))
        assert_close(kept.sum(dim=0), torch.ones(1, 5))
        assert_close(kept[:, 0, :3], probabilities[:, 0, :3])

    def test_one_piece_stays_as_it_is(self):
        probabilities = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)).softmax(dim=0)
        probabilities[1, :, :2], probabilities[1, :, 2:] = 0.9, 0.0
        assert torch.equal(without_smaller_components(probabilities), probabilities)

    @pytest.mark.parametrize("name", ["inference", "evaluate"])
    def test_it_is_an_option_of_the_bundle(self, bundle_importable, repository, name):
        bundle = repository / "bundles" / "double_mix"
        block = "postprocessing" if name == "inference" else "validate#postprocessing"
        found = []
        for wanted in (False, True):
            with bundle_importable(bundle):
                parser = ConfigParser(ConfigParser.load_config_file(bundle / "configs" / f"{name}.json"))
                parser.update({"largest_component": wanted, f"{block}#transforms#0": None})
                steps = parser.get_parsed_content(f"{block}#transforms")
                found.append([type(step).__name__ for step in steps if step is not None])
        assert found[1] == [found[0][0], "LargestComponentsd", *found[0][1:]]


class TestRegions:
    @pytest.fixture
    def case(self):
        logits = torch.randn(2, CLASSES, 4, 3, generator=seeded(2))
        return logits, *(torch.randint(0, top, (2, 1, 4, 3), generator=seeded(3)) for top in (CLASSES, 2))

    def test_losses_count_the_voxels_of_the_region_alone(self, case):
        logits, target, region = case[0], case[1], case[2].bool()
        weight = torch.tensor([0.5, 1.0, 2.0])
        inside = region[:, 0]
        # One row of voxels: what is outside is not there.
        row = logits.movedim(1, -1)[inside].T[None, :, :, None]
        there = target[:, 0][inside][None, None, :, None]
        assert_close(weighted_cross_entropy(logits, target, weight, region), weighted_cross_entropy(row, there, weight))
        loss = WeightedSegmentationLoss(present_classes=True)
        assert_close(loss(logits, target, weight, region), loss(row, there, weight))

    def test_whole_region_is_the_loss_without_one(self, case):
        logits, target, _ = case
        loss, everywhere = WeightedSegmentationLoss(), torch.ones(2, 1, 4, 3, dtype=torch.bool)
        assert_close(loss(logits, target, region=everywhere), loss(logits, target))
        assert_close(
            regional_dice_loss(logits, target, everywhere).mean(), loss.dice(logits, target, torch.ones(CLASSES))
        )

    def test_empty_region_has_no_gradient(self, case):
        logits, target, _ = case
        logits.requires_grad_()
        WeightedSegmentationLoss()(logits, target, region=torch.zeros(2, 1, 4, 3, dtype=torch.bool)).backward()
        assert not logits.grad.any()


class TestStep:
    @pytest.mark.parametrize("students", [1, 2])
    def test_terms_equal_the_definition(self, students):
        """Each direction by itself would have the same voxels; the Dice is that of the batch."""
        network, batch = make_network(students), make_batch()
        step = make_bcp(network, largest_component=False)
        before = deepcopy(network)
        terms = step.losses(network, batch["image"], batch["label"], batch["unlabeled"], share=0.5)
        box = random_boxes_of_share(batch["label"], 2 / 3, generator=seeded(5))
        images = [
            torch.where(box, batch["image"], batch["unlabeled"]),
            torch.where(box, batch["unlabeled"], batch["image"]),
        ]
        teachers = deepcopy(before).eval().each(batch["unlabeled"])
        supervised = unsupervised = 0
        for logits, teacher in zip(before(torch.cat(images)), teachers, strict=True):
            pseudo = teacher.argmax(1, keepdim=True)
            target = torch.cat([torch.where(box, batch["label"], pseudo), torch.where(box, pseudo, batch["label"])])
            supervised += step.loss(logits, target, region=torch.cat([box, ~box]))
            unsupervised += step.loss(logits, target, region=torch.cat([~box, box]))
        assert_close(terms["supervised"], supervised)
        assert_close(terms["unsupervised"], 0.5 * unsupervised)

    def test_warm_up_pastes_between_labeled_images_and_sees_no_other(self):
        network, batch = make_network(), make_batch()
        step, before = make_bcp(network, pretrain_share=0.25), deepcopy(network)
        terms = step.losses(network, batch["image"], batch["label"], batch["unlabeled"] * torch.nan, share=0.25)
        box = random_boxes_of_share(batch["label"], 2 / 3, generator=seeded(5))
        image, label = (torch.where(box, batch[name].flip(0), batch[name]) for name in ("image", "label"))
        assert_close(terms["supervised"], step.loss(before(image)[0], label))
        assert terms["unsupervised"] == 0
        assert int(step.ema.n_averaged) == 1

    def test_pseudo_labels_keep_their_largest_components(self, monkeypatch):
        seen = []
        monkeypatch.setattr("common.double_mix.rivals.bcp.largest_components", lambda x: seen.append(x) or x * 0)
        network, batch = make_network(), make_batch()
        step = make_bcp(network, pseudo_weight=1.0)
        terms = step.losses(network, batch["image"], batch["label"] * 0, batch["unlabeled"], share=1.0)
        assert seen[0].shape == batch["label"].shape
        assert terms["unsupervised"] > 0

    def test_trains_and_the_average_follows(self):
        network = make_network()
        step = make_bcp(network)
        trainer = make_trainer(network, step, [make_batch(seed) for seed in range(4)], epochs=2)
        trainer.run()
        assert set(trainer.state.output) == {"loss", *step.terms}
        assert all(value.isfinite() for value in trainer.state.output.values())
        assert int(step.ema.n_averaged) == 8
        assert step.moved_average is step.ema
        assert not any(name.startswith("network_b") for name in network.state_dict())

    @pytest.mark.parametrize(
        ("name", "value"), [("box_share", 0), ("box_share", 1.5), ("pretrain_share", -0.1), ("pseudo_weight", -1)]
    )
    def test_numbers_out_of_range_are_refused(self, name, value):
        with pytest.raises(ConfigError, match=f"^{name} is {value}; accepted"):
            make_bcp(make_network(), **{name: value})


class TestMaking:
    def make(self, rival, **settings):
        network = make_network()
        shapes = {"num_classes": CLASSES, "feature_layers": [], "in_channels": 1, "roi_size": [8, 6]}
        settings = {"ema": EMANetwork(network)} | shapes | settings
        return make_step(network, WeightedSegmentationLoss(), rival=rival, **settings)

    def test_rival_takes_the_place_of_co_training(self):
        step = self.make({"name": "bcp", "box_share": 0.5}, teaching="cross")
        assert isinstance(step, BCPStep)
        assert step.box_share == 0.5

    def test_names_and_settings_that_do_not_exist_are_refused(self):
        with pytest.raises(ConfigError, match=r"^rival has the name 'cpb'; accepted are bcp"):
            self.make({"name": "cpb"})
        with pytest.raises(
            ConfigError, match=r"^rival has 'boxshare', which bcp does not take; it takes \['box_share'"
        ):
            self.make({"name": "bcp", "boxshare": 0.5})

    def test_teacher_without_an_average_is_refused(self):
        with pytest.raises(ConfigError, match="ema is None, but averages teach"):
            self.make({"name": "bcp"}, ema=None)
