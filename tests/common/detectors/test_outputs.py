"""What detectors make of logits alone."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

from common.detectors.histogram import intensity_histogram
from common.detectors.outputs import (
    class_logits,
    energy,
    foreground_entropy,
    negative_max_logit,
    segment,
    softmax_uncertainty,
)

SIGMOID = torch.tensor([2.0, 0.5, -1.0, -4.0], dtype=torch.float64).reshape(1, 1, 2, 2)
SOFTMAX = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MEASURES = [energy, foreground_entropy, negative_max_logit, softmax_uncertainty]


def voxels(logits):
    """Logits of every voxel whose class is not background, ``(n, C)``."""
    table = np.moveaxis(logits.numpy()[0], 0, -1).reshape(-1, logits.shape[1])
    return table[table.argmax(axis=1) > 0]


BY_HAND = {
    energy: lambda z: -logsumexp(z),
    foreground_entropy: lambda z: -(softmax(z) * np.log(softmax(z))).sum(),
    negative_max_logit: lambda z: -z.max(),
    softmax_uncertainty: lambda z: 1 - softmax(z).max(),
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("logits", [class_logits(SIGMOID), SOFTMAX])
def test_measure_is_the_mean_over_the_foreground(measure, logits):
    expected = np.mean([BY_HAND[measure](row) for row in voxels(logits)])
    assert measure(logits) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("classes", [2, 3])
def test_no_foreground_is_as_abnormal_as_equal_logits(measure, classes):
    empty = torch.zeros(1, classes, 2, 2)
    empty[:, 0] = 5
    assert measure(empty) == pytest.approx(BY_HAND[measure](np.zeros(classes)), abs=1e-9)


@pytest.mark.parametrize("measure", MEASURES)
def test_surer_networks_score_lower(measure):
    sure, unsure = (class_logits(torch.full((1, 1, 2, 2), value)) for value in (6.0, 0.3))
    assert measure(sure) < measure(unsure) < measure(class_logits(torch.full((1, 1, 2, 2), -1.0)))


def test_a_sigmoid_channel_is_a_softmax_of_two():
    assert torch.allclose(class_logits(SIGMOID).softmax(dim=1)[:, 1:], SIGMOID.sigmoid())
    assert segment(SIGMOID).flatten().tolist() == [True, True, False, False]


def test_several_sigmoid_channels_count_by_the_largest():
    logits = torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1)
    assert class_logits(logits).flatten().tolist() == [0.0, 3.0]
    assert segment(logits).flatten().tolist() == [True, True]


def test_a_softmax_is_segmented_by_its_largest_class():
    assert torch.equal(segment(SOFTMAX, softmax=True)[0, 1], SOFTMAX[0].argmax(dim=0) == 2)
    assert class_logits(SOFTMAX, softmax=True) is SOFTMAX


def test_temperature_divides_the_logits():
    logits = class_logits(SIGMOID)
    expected = np.mean([-7 * logsumexp(row / 7) for row in voxels(logits)])
    assert energy(logits, temperature=7.0) == pytest.approx(expected)
    expected = np.mean([1 - softmax(row / 1000).max() for row in voxels(logits)])
    assert softmax_uncertainty(logits, temperature=1000.0) == pytest.approx(expected, abs=1e-12)


def test_entropy_of_a_probability_by_hand():
    by_hand = [-p * math.log(p) - (1 - p) * math.log(1 - p) for p in (0.9, 0.6)]
    logits = torch.tensor([0.9, 0.6, 0.5, 0.1], dtype=torch.float64).logit().reshape(1, 1, 2, 2)
    assert foreground_entropy(class_logits(logits)) == pytest.approx(np.mean(by_hand), abs=1e-12)


def test_histogram_is_the_share_of_voxels_in_each_bin():
    image = torch.tensor([[[-7.0, -2.0, -1.5, 0.0], [0.3, 0.7, 2.0, 99.0]]])
    # Bins of width one from -2 to 2; what lies outside counts at the ends, the upper limit in the last bin.
    assert intensity_histogram(image, bins=4, low=-2.0, high=2.0).tolist() == [3 / 8, 0.0, 3 / 8, 2 / 8]


def test_default_histogram_is_numpy_s():
    image = 3 * torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    expected, _ = np.histogram(np.clip(image.numpy(), -2, 10), bins=150, range=(-2, 10))
    assert intensity_histogram(image) == pytest.approx(expected / image.numel(), abs=2.5 / image.numel())
