import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from common.errors import WeightsError
from common.ood_mining import confusion_score, patch_signs, rank_candidates, removed_share, score_batches

SHAPES = pytest.mark.parametrize("spatial", [(6, 5), (4, 3, 5)], ids=["2d", "3d"])


def slow_score(logits, padding):
    """Pixel by pixel: where the largest logit, or a positive single one, is no background's."""
    scores = []
    for patch, mask in zip(logits.tolist(), padding.tolist(), strict=True):
        channels = np.asarray(patch).reshape(len(patch), -1).T
        counted = ~np.asarray(mask).reshape(-1)
        hits = [(np.argmax(pixel) > 0) if len(pixel) > 1 else pixel[0] > 0 for pixel in channels[counted]]
        scores.append(float(np.mean(hits)) if hits else 0.0)
    return torch.tensor(scores, dtype=torch.float64)


@SHAPES
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_score_agrees_with_a_loop_over_pixels(spatial, channels):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, channels, *spatial, generator=generator)
    padding = torch.rand(4, 1, *spatial, generator=generator) > 0.6
    padding[3] = True
    assert_close(confusion_score(logits, padding), slow_score(logits, padding), rtol=1e-12, atol=0)
    assert confusion_score(logits, padding)[3] == 0
    assert_close(confusion_score(logits), slow_score(logits, torch.zeros_like(padding)), rtol=1e-12, atol=0)


def test_one_pixel_is_enough_to_be_kept():
    logits = torch.zeros(2, 3, 8, 8)
    logits[:, 0] = 1
    logits[1, 2, 4, 4] = 2
    scores = confusion_score(logits)
    assert scores.tolist() == [0, 1 / 64]
    assert rank_candidates(scores).tolist() == [1]


@SHAPES
@pytest.mark.parametrize("channels", [1, 3])
def test_share_of_what_is_found_in_holes_agrees_with_sets_of_pixels(spatial, channels):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, channels, *spatial, generator=generator)
    removed = torch.rand(3, 1, *spatial, generator=generator) > 0.6
    logits[2, 0] = 9 if channels > 1 else -9
    shares = removed_share(logits, removed).tolist()
    for patch, mask, share in zip(logits, removed, shares, strict=True):
        found = patch.argmax(dim=0) > 0 if channels > 1 else patch[0] > 0
        pixels, holes = ({tuple(place) for place in where.nonzero().tolist()} for where in (found, mask[0]))
        assert share == pytest.approx(len(pixels & holes) / len(pixels) if pixels else 0)
    assert shares[2] == 0 < shares[0] < 1


@SHAPES
def test_batches_give_what_patches_give_one_by_one(spatial):
    torch.manual_seed(0)
    kind = nn.Conv2d if len(spatial) == 2 else nn.Conv3d
    norm = nn.BatchNorm2d if len(spatial) == 2 else nn.BatchNorm3d
    network = nn.Sequential(kind(2, 4, 3, padding=1), norm(4), kind(4, 3, 1))
    images, removed = torch.randn(7, 2, *spatial), torch.rand(7, 1, *spatial) > 0.5
    device = torch.device("cpu")
    pairs = [{"image": images[part], "removed": removed[part]} for part in (slice(0, 4), slice(4, 7))]
    together = score_batches(network, pairs, device)
    single = [{"image": image[None], "removed": mask[None]} for image, mask in zip(images, removed, strict=True)]
    alone = score_batches(network.train(), single, device)
    assert_close(together, alone, rtol=0, atol=0)
    for column in together.T.tolist():
        assert len(set(column)) > 1
    assert not network.training


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_outputs_that_are_not_finite_are_no_background(value):
    batch = {"image": torch.zeros(3, 1, 4, 4), "removed": torch.zeros(3, 1, 4, 4, dtype=torch.bool)}
    batch["image"][1, 0, 2, 2] = value
    with pytest.raises(WeightsError, match=r"NaN or infinite outputs for 1 of 3 candidates: .* lower learning_rate"):
        score_batches(nn.Conv2d(1, 2, 1), [batch], torch.device("cpu"))


def test_no_batch_gives_no_score():
    assert score_batches(nn.Conv2d(1, 2, 1), [], torch.device("cpu")).shape == (0, 2)


def test_ranking_is_from_most_to_least_confusing_without_the_pruned():
    scores = np.random.default_rng(0).integers(0, 5, 200) / 4
    ranked = rank_candidates(scores)
    assert sorted(ranked.tolist()) == [index for index, score in enumerate(scores) if score > 0]
    pairs = [(-scores[index], index) for index in ranked]
    assert pairs == sorted(pairs), "equally confusing ones stay in their order"
    assert rank_candidates([]).tolist() == rank_candidates([0.0, 0.0]).tolist() == []


@SHAPES
def test_signs_of_patches(spatial):
    label = torch.zeros(1, *spatial, dtype=torch.uint8)
    padding = torch.zeros(1, *spatial, dtype=torch.bool)
    assert patch_signs(label) == (False, True)
    label[..., 0] = 3
    assert patch_signs(label) == patch_signs(label.numpy()) == (True, True)
    padding[..., 1:] = True
    assert patch_signs(label, padding=padding) == (True, False), "padding is not background"
    assert patch_signs(label, padding=padding, count_padding=True) == (True, True), "the paper's way"
    assert patch_signs(label + 1, padding=padding * False) == (True, False)
    assert patch_signs(label * 0, padding=padding | True) == (False, False)


@SHAPES
def test_score_may_pass_over_what_was_removed(spatial):
    """The same as if what was removed were padding; the share that lies there stays what it is."""
    torch.manual_seed(0)
    network = (nn.Conv2d if len(spatial) == 2 else nn.Conv3d)(2, 3, 1)
    images, removed = torch.randn(5, 2, *spatial), torch.rand(5, 1, *spatial) > 0.5
    padding = torch.rand(5, 1, *spatial) > 0.8
    batch = {"image": images, "removed": removed, "padding": padding}
    device = torch.device("cpu")
    plain, outside = (score_batches(network, [batch], device, ignore_removed=ignore) for ignore in (False, True))
    assert_close(outside[:, 0], confusion_score(network(images), padding | removed), rtol=0, atol=0)
    assert not torch.equal(outside[:, 0], plain[:, 0])
    assert torch.equal(outside[:, 1], plain[:, 1])
