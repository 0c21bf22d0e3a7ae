"""Anomaly scores against scipy, removal of small components, and the losses against loops."""

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter, uniform_filter
from torch.testing import assert_close

from common.denoising import (
    AnomalyMapd,
    DenoisingLoss,
    NegativeDenoisingLoss,
    NegativeSegmentationLoss,
    anomaly_score,
    erode_mask,
    remove_small_components,
)
from common.errors import ConfigError


def slow_score(image, reconstruction, threshold=0.01):
    """One image, by scipy."""
    difference = np.abs(image - reconstruction).mean(axis=0)
    mask = (image.sum(axis=0) > threshold).astype(float)
    # Beyond the border nothing is foreground.
    difference[uniform_filter(mask, 5, mode="constant") <= 0.95] = 0
    return median_filter(difference, size=5, mode="nearest")


@pytest.mark.parametrize("shape", [(3, 24, 20), (2, 13, 12, 11)])
def test_score_agrees_with_scipy(shape):
    rng = np.random.default_rng(0)
    image, rebuilt = rng.random((2, *shape)).astype(np.float32)
    image[:, :4] = 0
    found = anomaly_score(torch.tensor(image)[None], torch.tensor(rebuilt)[None])
    assert found.shape == (1, 1, *shape[1:])
    np.testing.assert_allclose(found[0, 0].numpy(), slow_score(image, rebuilt), atol=1e-6)
    assert (found > 0).any()


@pytest.mark.parametrize("channel", [0, 2])
def test_only_what_is_brighter_in_a_channel_counts(channel):
    image, rebuilt = torch.rand(2, 2, 3, 20, 20)
    excess = (image - rebuilt)[:, [channel]].clamp(min=0)
    expected = anomaly_score(image, image - excess * 3 * torch.eye(3)[channel].reshape(3, 1, 1))
    assert_close(anomaly_score(image, rebuilt, bright_channel=channel), expected)


@pytest.mark.parametrize("channel", [-1, 3, 1.0, "flair"])
def test_channel_that_is_not_there_is_named(channel):
    image = torch.rand(1, 3, 8, 8)
    with pytest.raises(ConfigError, match=f"bright_channel is {channel!r}; accepted are none and .* from 0 to 2"):
        anomaly_score(image, image, bright_channel=channel)


def test_score_of_a_perfect_reconstruction_is_zero():
    image = torch.rand(2, 3, 16, 16)
    assert not anomaly_score(image, image.clone()).any()


def test_a_batch_scores_as_its_images_one_by_one():
    image, rebuilt = torch.rand(2, 3, 3, 16, 16)
    together = anomaly_score(image, rebuilt)
    for number in range(3):
        assert_close(
            together[number : number + 1], anomaly_score(image[number : number + 1], rebuilt[number : number + 1])
        )


def test_a_worse_reconstruction_scores_higher():
    image = torch.rand(1, 3, 16, 16) + 0.1
    scores = [float(anomaly_score(image, image + error).max()) for error in (0.1, 0.2)]
    assert scores == pytest.approx([0.1, 0.2], rel=1e-4)


@pytest.mark.parametrize("threshold", [0.01, 1.0])
def test_transform_adds_the_score_by_a_denoiser_with_its_weights(tmp_path, threshold):
    torch.manual_seed(0)
    trained, denoiser = (torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
    torch.save(trained.state_dict(), tmp_path / "denoiser.pt")
    image = torch.rand(3, 16, 16)
    item = AnomalyMapd("image", denoiser, str(tmp_path / "denoiser.pt"), "cpu", foreground_threshold=threshold)(
        {"image": image}
    )
    with torch.no_grad():
        assert_close(
            item["anomaly"], anomaly_score(image[None], trained(image[None]), foreground_threshold=threshold)[0]
        )
    assert item["image"] is image


def test_foreground_is_what_exceeds_the_given_threshold():
    image = torch.full((1, 1, 16, 16), 0.5)
    assert anomaly_score(image, image + 1, foreground_threshold=0.4).max() == 1
    assert not anomaly_score(image, image + 1, foreground_threshold=0.6).any()


def test_nothing_outside_the_foreground_counts():
    image = torch.zeros(1, 3, 16, 16)
    assert not anomaly_score(image, image + 5).any()


def test_erosion_asks_for_95_percent_of_a_neighborhood():
    mask = torch.ones(1, 1, 9, 9, dtype=torch.bool)
    assert erode_mask(mask)[0, 0, 4, 4]
    assert erode_mask(mask).sum() == 25, "beyond the image nothing is foreground"
    mask[0, 0, 4, 4] = False
    assert erode_mask(mask)[0, 0, 4, 4], "24 of 25 are 96 %"
    mask[0, 0, 4, 5] = False
    assert not erode_mask(mask)[0, 0, 4, 4]


def slow_components(mask, min_size):
    """By filling from one voxel after the other."""
    left, kept = {tuple(place) for place in np.argwhere(mask)}, np.zeros_like(mask)
    while left:
        part = [left.pop()]
        for place in part:
            near = [other for other in left if max(abs(a - b) for a, b in zip(place, other, strict=True)) <= 1]
            left -= set(near)
            part += near
        for place in part if len(part) >= min_size else ():
            kept[place] = True
    return kept


@pytest.mark.parametrize("shape", [(12, 12), (4, 7, 7)])
@pytest.mark.parametrize("min_size", [0, 1, 3, 8, 1000])
def test_components_agree_with_filling(shape, min_size):
    mask = np.random.default_rng(3).random(shape) < 0.2
    np.testing.assert_array_equal(remove_small_components(mask, min_size), slow_components(mask, min_size))


def test_loss_is_the_mean_over_the_foreground():
    rng = np.random.default_rng(1)
    rebuilt, target = rng.random((2, 2, 3, 5, 6))
    target[0, :, 2:4] = 0
    total, number = 0.0, 0
    for b, i, j in np.ndindex(2, 5, 6):
        if target[b, :, i, j].sum() > 0.01:
            total += ((rebuilt - target)[b, :, i, j] ** 2).sum()
            number += 3
    found = DenoisingLoss()(torch.tensor(rebuilt), torch.tensor(target))
    assert float(found) == pytest.approx(total / number)
    metric = NegativeDenoisingLoss()
    for one, other in zip(rebuilt, target, strict=True):
        metric(torch.tensor(one)[None], torch.tensor(other)[None])
    assert float(metric.aggregate()) == pytest.approx(-total / number)


def test_loss_of_empty_slices_is_zero_with_a_gradient():
    rebuilt = torch.rand(2, 3, 4, 4, requires_grad=True)
    loss = DenoisingLoss()(rebuilt, torch.zeros(2, 3, 4, 4))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not rebuilt.grad.any()


def test_background_has_no_gradient():
    rebuilt, target = torch.rand(1, 2, 4, 4, requires_grad=True), torch.ones(1, 2, 4, 4)
    target[..., 0] = 0
    DenoisingLoss()(rebuilt, target).backward()
    assert not rebuilt.grad[..., 0].any()
    assert rebuilt.grad[..., 1:].all()


def slow_segmentation_loss(logits, label, smooth=1.0):
    """Over everything at once."""
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    dices = []
    for k in range(1, logits.shape[1]):
        truth = label[:, 0] == k
        dices.append((2 * p[:, k][truth].sum() + smooth) / (p[:, k].sum() + truth.sum() + smooth))
    entropy = -np.log(np.take_along_axis(p, label.astype(int), axis=1)).mean()
    return 1 - np.mean(dices) + entropy


def test_validation_loss_does_not_depend_on_batches():
    rng = np.random.default_rng(2)
    logits, label = rng.normal(size=(5, 3, 6, 7)), rng.integers(0, 3, (5, 1, 6, 7))
    label[2:4] = 0
    expected = -slow_segmentation_loss(logits, label)
    for parts in ([slice(0, 5)], [slice(0, 2), slice(2, 5)], [slice(n, n + 1) for n in range(5)]):
        metric = NegativeSegmentationLoss()
        for part in parts:
            metric(torch.tensor(logits[part]), torch.tensor(label[part]))
        assert float(metric.aggregate()) == pytest.approx(expected, rel=1e-5)


def test_a_better_prediction_has_the_higher_metric():
    label = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    label[..., 3:5] = 1
    right = torch.stack([(label[:, 0] == k).float() * 8 for k in (0, 1)], dim=1)
    values = []
    for logits in (right, right * 0, -right):
        metric = NegativeSegmentationLoss()
        metric(logits, label)
        values.append(float(metric.aggregate()))
    assert 0 > values[0] > values[1] > values[2]
