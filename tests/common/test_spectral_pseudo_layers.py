import math
from itertools import product

import pytest
import torch
from torch.testing import assert_close

from common.errors import FeatureError
from common.spectral.pseudo_layers import (
    LEAST_ENTROPY,
    NOTHING_FOUND,
    image_signature,
    neighborhoods,
    output_signature,
    uncertainty,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_neighborhoods(image):
    """Every voxel's neighbors, one by one; beyond the border lies the border again."""
    spatial = image.shape[1:]
    columns = []
    for place in product(*map(range, spatial)):
        around = []
        for channel, step in product(range(len(image)), product((-1, 0, 1), repeat=len(spatial))):
            where = [min(max(p + s, 0), size - 1) for p, s, size in zip(place, step, spatial, strict=True)]
            around.append(image[(channel, *where)])
        columns.append(torch.stack(around))
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("shape", [(1, 4, 3, 5), (2, 3, 6), (1, 1, 4, 3)])
def test_neighborhoods_are_those_of_every_voxel(shape):
    image = draw(*shape)
    assert_close(neighborhoods(image), naive_neighborhoods(image), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1, 7, 5, 6), (2, 9, 8)])
def test_of_a_large_image_some_neighborhoods_are_drawn_always_the_same(shape):
    image = draw(*shape)
    drawn = neighborhoods(image, max_patches=50)
    everything = {tuple(column) for column in neighborhoods(image).T.tolist()}
    assert drawn.shape == (shape[0] * 3 ** (len(shape) - 1), 50)
    assert {tuple(column) for column in drawn.T.tolist()} <= everything
    assert_close(neighborhoods(image, max_patches=50), drawn, rtol=0, atol=0)


def test_image_signature_is_the_logarithmic_spectrum_per_voxel():
    image = draw(1, 6, 7)
    values = torch.linalg.svdvals(naive_neighborhoods(image).T) / math.sqrt(42)
    assert_close(image_signature(image, "full"), values.log(), rtol=0, atol=1e-9)
    assert_close(image_signature(image), values.log() / values.log().norm(), rtol=0, atol=1e-9)


def test_noise_lifts_the_small_singular_values_and_smoothing_lowers_them():
    ramp = torch.linspace(1, 2, 16, dtype=torch.float64).reshape(1, 16, 1).expand(1, 16, 16) + 0.01 * draw(1, 16, 16)
    noisy = image_signature(ramp + 0.1 * draw(1, 16, 16, seed=1), "full")
    smooth = image_signature(torch.nn.functional.avg_pool2d(ramp, 3, 1, 1, count_include_pad=False), "full")
    plain = image_signature(ramp, "full")
    assert float((noisy - plain)[-1]) > 1.0
    assert float((smooth - plain)[-1]) < -1.0
    assert float((noisy - plain)[0].abs()) < 0.05


def test_image_without_a_signature_is_an_error():
    with pytest.raises(FeatureError, match="zero everywhere"):
        image_signature(torch.zeros(1, 4, 4))


def naive_entropy(shares):
    return -sum(share * math.log(share) for share in shares)


def test_output_signature_is_the_mean_entropy_of_the_predicted_foreground():
    logits = draw(3, 4, 5)
    shares = [[math.exp(value) for value in voxel] for voxel in logits.flatten(1).T.tolist()]
    foreground = [[share / sum(voxel) for share in voxel] for voxel in shares if voxel[0] < max(voxel)]
    expected = sum(map(naive_entropy, foreground)) / len(foreground)
    assert output_signature(logits).tolist() == pytest.approx([math.log(expected)], rel=1e-9)
    likely = [1 / (1 + math.exp(-value)) for value in logits.flatten().tolist() if value > 0]
    expected = sum(naive_entropy((share, 1 - share)) for share in likely) / len(likely)
    assert output_signature(logits, sigmoid=True).tolist() == pytest.approx([math.log(expected)], rel=1e-9)


def test_sure_output_has_the_least_entropy_and_an_empty_one_the_most():
    sure = torch.tensor([100.0, -100.0]).repeat(8).reshape(1, 16, 1)
    assert output_signature(sure, sigmoid=True).tolist() == [math.log(LEAST_ENTROPY)]
    assert output_signature(-sure.abs(), sigmoid=True).tolist() == [math.log(math.log(2))]
    empty = torch.stack([torch.ones(4, 4), torch.zeros(4, 4), torch.zeros(4, 4)])
    assert output_signature(empty).tolist() == [math.log(math.log(3))]


@pytest.mark.parametrize("sigmoid", [True, False])
def test_uncertainty_is_a_share_of_the_largest_entropy(sigmoid):
    logits = draw(3, 5, 6)
    largest = math.log(2 if sigmoid else 3)
    assert float(uncertainty(logits, sigmoid=sigmoid)) == pytest.approx(
        math.exp(float(output_signature(logits, sigmoid=sigmoid))) / largest
    )
    nothing = torch.full((3, 5, 6), -4.0)
    nothing[0] = -4.0 if sigmoid else 4.0
    assert uncertainty(nothing, sigmoid=sigmoid).tolist() == [NOTHING_FOUND]
    # Foreground that is hardly likelier than not: nearly, but not quite nothing.
    assert 0.99 < float(uncertainty(1e-3 + 1e-3 * draw(3, 5, 6).abs(), sigmoid=sigmoid)) < NOTHING_FOUND


def test_output_that_is_not_finite_is_an_error():
    with pytest.raises(FeatureError, match="output of the network holds NaN"):
        output_signature(torch.tensor([[[0.0, math.nan]]]), sigmoid=True)
