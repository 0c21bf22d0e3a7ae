"""Mixing: what is drawn follows the weights, and what is applied is the definition, element by element."""

from functools import partial

import pytest
import torch
from scipy.stats import chisquare
from torch.testing import assert_close

from common.double_mix.mixing import (
    MIXINGS,
    apply_mask,
    choose_classes,
    double_mix,
    draw_classes,
    make_mixing,
    mask_of_classes,
    present_classes,
    random_boxes,
)
from common.errors import ConfigError

DRAWS = 10_000
NAMES = [name for name in MIXINGS if name != "none"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_pair(batch=3, classes=4, channels=2, shape=(5, 4, 6), seed=0):
    """Unlabeled images are positive, labeled ones negative, so that every voxel tells where it came from."""
    generator = seeded(seed)
    image_u, image_l = (1 + torch.rand(batch, channels, *shape, generator=generator) for _ in range(2))
    pseudo_u, label_l = (torch.randint(0, classes, (batch, 1, *shape), generator=generator) for _ in range(2))
    return image_u, pseudo_u, -image_l, label_l


@pytest.mark.parametrize("weight", [[0.1, 0.2, 0.3, 0.4], [3.0, 1, 1, 0], [0.0, 0.5, 1, 1]])
def test_draws_follow_the_weights(weight):
    drawn = draw_classes(torch.ones(DRAWS, 4, dtype=torch.bool), torch.tensor(weight), generator=seeded(1))
    share = torch.tensor(weight) / sum(weight)
    for column in (0, 3):
        observed = torch.bincount(drawn[:, column], minlength=4)
        used = share > 0
        assert observed[~used].sum() == 0
        assert chisquare(observed[used], (share[used] * DRAWS).double()).pvalue > 1e-3


def test_draws_follow_the_weights_among_the_classes_present():
    present = torch.tensor([[True, False, True, True]]).expand(DRAWS, 4)
    drawn = draw_classes(present, torch.tensor([0.1, 5, 0.3, 0.6]), generator=seeded(2))[:, 1]
    observed = torch.bincount(drawn, minlength=4)
    assert observed[1] == 0
    assert chisquare(observed[[0, 2, 3]], [1000, 3000, 6000]).pvalue > 1e-3


def test_draws_of_one_image_are_independent():
    drawn = draw_classes(torch.ones(DRAWS, 3, dtype=torch.bool), torch.tensor([0.2, 0.3, 0.5]), generator=seeded(3))
    pairs = torch.bincount(drawn[:, 0] * 3 + drawn[:, 1], minlength=9)
    share = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    assert chisquare(pairs, (share[:, None] * share * DRAWS).flatten()).pvalue > 1e-3


class TestChoice:
    @pytest.mark.parametrize("seed", range(5))
    def test_class_without_weight_is_never_chosen_while_another_is_present(self, seed):
        present = torch.rand(200, 4, generator=seeded(seed)) < 0.5
        present[:, 3] = True
        weight = torch.tensor([0.0, 0.7, 0.0, 0.2])
        chosen = choose_classes(present, weight, generator=seeded(seed))
        assert not chosen[:, [0, 2]].any()
        assert (chosen & ~present).sum() == 0
        assert chosen.any(1).all()

    def test_classes_without_weight_are_chosen_alike_where_all_are(self):
        present = torch.tensor([[True, False, True]]).expand(DRAWS, 3)
        drawn = draw_classes(present, torch.tensor([0.0, 1, 0]), generator=seeded(4))[:, 0]
        observed = torch.bincount(drawn, minlength=3)
        assert observed[1] == 0
        assert chisquare(observed[[0, 2]]).pvalue > 1e-3

    def test_as_many_draws_as_classes_are_present(self):
        """With two classes present and equal weights, half of the images draw the same class twice."""
        present = torch.tensor([[True, True, False, False]]).expand(DRAWS, 4)
        counts = choose_classes(present, torch.ones(4), generator=seeded(5)).sum(1)
        assert set(counts.tolist()) == {1, 2}
        assert chisquare(torch.bincount(counts, minlength=3)[1:]).pvalue > 1e-3

    def test_bernoulli_takes_each_class_by_its_weight(self):
        present = torch.tensor([[True, True, True, False]]).expand(DRAWS, 4)
        chosen = choose_classes(present, torch.tensor([0.0, 0.3, 1, 1]), generator=seeded(6), draw="bernoulli")
        assert chosen.sum(0)[[0, 2, 3]].tolist() == [0, DRAWS, 0]
        taken = int(chosen[:, 1].sum())
        assert chisquare([taken, DRAWS - taken], [0.3 * DRAWS, 0.7 * DRAWS]).pvalue > 1e-3

    def test_bernoulli_takes_one_of_the_present_classes_where_all_weigh_nothing(self):
        present = torch.tensor([[True, False, True, True], [False, True, False, False]]).repeat(DRAWS, 1)
        chosen = choose_classes(present, torch.tensor([0.0, 0.0, 0, 0]), generator=seeded(7), draw="bernoulli")
        assert chosen.sum(1).eq(1).all()
        first, second = chosen[::2].sum(0), chosen[1::2].sum(0)
        assert second.tolist() == [0, DRAWS, 0, 0]
        assert first[1] == 0
        assert chisquare(first[[0, 2, 3]]).pvalue > 1e-3


class TestApplying:
    @pytest.mark.parametrize("shape", [(5, 4, 6), (5, 4)])
    def test_mix_equals_a_loop_over_voxels(self, shape):
        image_u, pseudo_u, image_l, label_l = random_pair(shape=shape)
        chosen = torch.tensor([[True, False, False, True], [False, True, False, False], [False] * 4])
        image, label, mask = apply_mask(image_u, pseudo_u, image_l, label_l, mask_of_classes(pseudo_u, chosen))
        for index in torch.cartesian_prod(*map(torch.arange, pseudo_u.shape)).tolist():
            b, _, *voxel = index
            taken = bool(chosen[b, pseudo_u[tuple(index)]])
            assert bool(mask[tuple(index)]) == taken
            assert label[tuple(index)] == (pseudo_u if taken else label_l)[tuple(index)]
            at = (b, slice(None), *voxel)
            assert torch.equal(image[at], (image_u if taken else image_l)[at])

    @pytest.mark.parametrize("draw", ["replacement", "bernoulli"])
    def test_batch_is_the_mix_of_its_elements(self, draw):
        pair, weight = random_pair(batch=6, classes=5), torch.tensor([0.1, 0.5, 0, 0.9, 1])
        together = double_mix(*pair, weight, generator=seeded(7), draw=draw)
        generator = seeded(7)
        for index in range(6):
            alone = double_mix(*(item[index : index + 1] for item in pair), weight, generator=generator, draw=draw)
            for whole, part in zip(together, alone, strict=True):
                assert torch.equal(whole[index : index + 1], part)


@pytest.mark.parametrize("name", NAMES)
class TestEveryMixing:
    def test_every_voxel_comes_from_the_side_that_the_mask_names(self, name):
        image_u, pseudo_u, image_l, label_l = random_pair(batch=8)
        image, label, mask = make_mixing(name)(image_u, pseudo_u, image_l, label_l, torch.ones(4), generator=seeded(1))
        assert mask.dtype == torch.bool
        assert mask.shape == label.shape == pseudo_u.shape
        assert 0 < mask.float().mean() < 1
        wide = mask.expand_as(image)
        assert torch.equal(image[wide], image_u[wide])
        assert torch.equal(label[mask], pseudo_u[mask])
        other = (image_l, label_l) if name != "CutOut" else (image_l * 0, label_l * 0)
        assert torch.equal(image[~wide], other[0][~wide])
        assert torch.equal(label[~mask], other[1][~mask])

    def test_labels_without_a_channel_give_the_same(self, name):
        image_u, pseudo_u, image_l, label_l = random_pair()
        mix = partial(make_mixing(name), weight=torch.ones(4))
        with_channel = mix(image_u, pseudo_u, image_l, label_l, generator=seeded(8))
        without = mix(image_u, pseudo_u[:, 0], image_l, label_l[:, 0], generator=seeded(8))
        assert torch.equal(without[0], with_channel[0])
        assert torch.equal(without[1], with_channel[1][:, 0])
        assert torch.equal(without[2], with_channel[2][:, 0])

    def test_same_generator_same_mix(self, name):
        pair = random_pair(batch=4)
        first, second = (make_mixing(name)(*pair, torch.ones(4), generator=seeded(3)) for _ in range(2))
        other = make_mixing(name)(*pair, torch.ones(4), generator=seeded(4))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert not torch.equal(first[2], other[2])

    def test_inputs_are_left_alone(self, name):
        pair = random_pair()
        copies = [item.clone() for item in pair]
        make_mixing(name)(*pair, torch.ones(4), generator=seeded(1))
        assert all(torch.equal(a, b) for a, b in zip(pair, copies, strict=True))

    def test_sides_of_different_shape_are_refused(self, name):
        image_u, pseudo_u, image_l, label_l = random_pair()
        shapes = [tuple(item.shape) for item in (image_u, pseudo_u, image_l[..., :-1], label_l[..., :-1])]
        with pytest.raises(ConfigError) as caught:
            make_mixing(name)(image_u, pseudo_u, image_l[..., :-1], label_l[..., :-1], torch.ones(4))
        text = f"pseudo label {shapes[:2]}, labeled image and label {shapes[2:]}: both sides must have equal shapes"
        assert text in str(caught.value)


def test_class_mix_takes_half_of_the_classes_all_alike():
    pseudo = torch.arange(5).repeat(2000, 1)[:, None, :, None]
    image = torch.zeros(2000, 1, 5, 1)
    _, _, mask = make_mixing("ClassMix")(image, pseudo, image, pseudo, torch.ones(7), generator=seeded(2))
    taken = mask[:, 0, :, 0]
    assert set(taken.sum(1).tolist()) == {2}
    assert chisquare(taken.sum(0)).pvalue > 1e-3


def test_boxes_are_boxes_of_many_sizes():
    label = torch.zeros(1, 1, 12, 10, 14)
    shares = []
    for seed in range(60):
        box = random_boxes(label, seeded(seed))[0, 0]
        for axis in range(3):
            line = box.movedim(axis, 0).flatten(1).any(1).int()
            assert (line.diff(prepend=line.new_zeros(1)) == 1).sum() <= 1, "in one piece"
        sides = [int(box.movedim(axis, 0).flatten(1).any(1).sum()) for axis in range(3)]
        assert box.sum() == torch.tensor(sides).prod()
        shares.append(float(box.float().mean()))
    assert min(shares) < 0.01
    assert max(shares) > 0.3


def test_present_classes_are_those_of_each_image():
    label = torch.tensor([[[0, 0]], [[2, 1]], [[2, 2]]])[:, :, None]
    expected = [[True, False, False, False], [False, True, True, False], [False, False, True, False]]
    assert present_classes(label, 4).tolist() == expected


def test_names_that_do_not_exist_are_refused():
    assert make_mixing("none") is None
    with pytest.raises(
        ConfigError, match="mixing is 'mixup'; accepted are none, CutMix, CutOut, ClassMix, Double-Mix, Double-Mix-Box"
    ):
        make_mixing("mixup")
    with pytest.raises(ConfigError, match="draw is 'gumbel'; accepted are replacement and bernoulli"):
        make_mixing("Double-Mix", draw="gumbel")


def test_weight_on_the_scale_of_a_softmax_changes_nothing():
    """Only proportions count: a weight of 1e-30 for all classes is a weight of 1 for all."""
    pair = random_pair()
    tiny, one = (double_mix(*pair, torch.full((4,), scale), generator=seeded(9)) for scale in (1e-30, 1.0))
    assert_close(tiny, one, rtol=0, atol=0)
