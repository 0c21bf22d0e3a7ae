import math

import pytest
import torch
from torch.testing import assert_close

from common.errors import BundleError, FeatureError
from common.spectral import GramAccumulator, spectral_signature
from common.spectral.signature import EPS, log_spectrum_signature


def reference_signature(features, per_voxel=False):
    """The definition, by a singular value decomposition in float64."""
    matrix = features.double().reshape(features.shape[0], -1).T
    values = torch.linalg.svdvals(matrix)
    if per_voxel:
        values = values / math.sqrt(matrix.shape[0])
    logarithms = values.clamp_min(EPS * values[0]).log()
    return logarithms / logarithms.norm()


def features_with_spectrum(smallest, channels=6, size=(7, 8, 5), seed=0):
    """Features whose singular values fall geometrically from 100 to ``100 * smallest``."""
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(math.prod(size), channels, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(channels, channels, generator=generator, dtype=torch.float64))
    values = 100 * smallest ** torch.linspace(0, 1, channels, dtype=torch.float64)
    return ((left * values) @ right).T.reshape(channels, *size)


def test_diagonal_features_give_the_check_values_of_the_paper():
    signature = spectral_signature(torch.diag(torch.tensor([100.0, 10.0, 1.0])))
    assert signature.dtype == torch.float64
    assert_close(signature, torch.tensor([0.894427, 0.447214, 0.0], dtype=torch.float64), rtol=0, atol=5e-7)


@pytest.mark.parametrize(
    ("smallest", "tolerance"), [(0.5, 1e-10), (1e-2, 1e-10), (1e-3, 1e-10), (1e-5, 1e-5), (0, 1e-5)]
)
@pytest.mark.parametrize("per_voxel", [False, True])
def test_signature_equals_singular_value_decomposition(smallest, tolerance, per_voxel):
    features = features_with_spectrum(max(smallest, 1e-2))
    if smallest < 1e-2:
        features = features_with_spectrum(smallest) if smallest else torch.cat([features[:5], features[:1]])
    assert_close(
        spectral_signature(features, per_voxel=per_voxel),
        reference_signature(features, per_voxel),
        rtol=0,
        atol=tolerance,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_features_are_summed_in_float64(dtype):
    features = features_with_spectrum(1e-3).to(dtype)
    assert_close(spectral_signature(features), reference_signature(features), rtol=0, atol=1e-9)


def test_signature_has_norm_one_and_falls():
    signature = spectral_signature(features_with_spectrum(1e-2))
    assert_close(signature.norm(), torch.tensor(1.0, dtype=torch.float64))
    assert bool((signature.diff() <= 0).all())


def test_order_of_voxels_does_not_matter():
    features = features_with_spectrum(1e-2)
    order = torch.randperm(features[0].numel(), generator=torch.Generator().manual_seed(1))
    moved = features.flatten(1)[:, order].reshape(features.shape)
    assert_close(spectral_signature(moved), spectral_signature(features), rtol=0, atol=1e-10)


def test_rotation_of_channels_does_not_matter():
    features = features_with_spectrum(1e-2)
    generator = torch.Generator().manual_seed(1)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    rotated = torch.einsum("ij,jxyz->ixyz", rotation, features)
    assert_close(spectral_signature(rotated), spectral_signature(features), rtol=0, atol=1e-10)


def test_scale_of_features_matters():
    features = features_with_spectrum(1e-2)
    assert float((spectral_signature(3 * features) - spectral_signature(features)).norm()) > 0.01


def test_repeated_image_moves_the_signature_only_without_per_voxel():
    features = features_with_spectrum(1e-2)
    twice = torch.cat([features, features], dim=1)
    assert_close(
        spectral_signature(twice, per_voxel=True), spectral_signature(features, per_voxel=True), rtol=0, atol=1e-10
    )
    assert float((spectral_signature(twice) - spectral_signature(features)).norm()) > 1e-3


def test_dead_channel_counts_as_eps_of_the_largest():
    signature = spectral_signature(torch.diag(torch.tensor([100.0, 10.0, 0.0])))
    logarithms = torch.tensor([100.0, 10.0, 100.0 * 1e-7], dtype=torch.float64).log()
    assert_close(signature, logarithms / logarithms.norm(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("features", "text"),
    [
        (torch.full((2, 3), math.nan), "NaN or infinite"),
        (torch.tensor([[1.0, math.inf], [0.0, 1.0]]), "NaN or infinite"),
        (torch.zeros(2, 3, 3), "zero everywhere"),
        (torch.eye(3), "every singular value of the feature map is 1"),
        (torch.zeros(2, 0), "no voxel was added"),
        (torch.zeros(0, 4), "num_channels is 0"),
        (torch.zeros(3), r"expected \(3, \*spatial\)"),
    ],
)
def test_features_without_a_signature_are_named(features, text):
    with pytest.raises(FeatureError, match=text) as caught:
        spectral_signature(features)
    assert isinstance(caught.value, BundleError)
    assert isinstance(caught.value, ValueError)


def test_non_finite_singular_values_are_named():
    with pytest.raises(FeatureError, match="NaN or infinite"):
        log_spectrum_signature(torch.tensor([math.inf, 1.0]))


@pytest.mark.parametrize("per_voxel", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pieces_give_the_signature_of_the_whole(per_voxel, dtype):
    features = features_with_spectrum(1e-2).to(dtype)
    accumulator = GramAccumulator(6)
    for piece in features.split([1, 4, 2], dim=1):
        accumulator.update(piece)
    assert accumulator.num_voxels == 7 * 8 * 5
    assert_close(accumulator.signature(per_voxel), reference_signature(features, per_voxel), rtol=0, atol=1e-10)


def test_chunks_do_not_change_the_sum(monkeypatch):
    features = features_with_spectrum(1e-2)
    monkeypatch.setattr("common.spectral.signature.CHUNK", 11)
    assert_close(spectral_signature(features), reference_signature(features), rtol=0, atol=1e-10)


def test_singular_values_are_those_of_the_matrix():
    accumulator = GramAccumulator(3)
    accumulator.update(torch.diag(torch.tensor([1.0, 100.0, 10.0])))
    assert_close(accumulator.singular_values(), torch.tensor([100.0, 10.0, 1.0], dtype=torch.float64))


def test_accumulator_refuses_another_number_of_channels():
    with pytest.raises(FeatureError, match=r"shape \(3, 2\); expected \(4, \*spatial\)"):
        GramAccumulator(4).update(torch.ones(3, 2))


def test_accumulator_keeps_no_gradient():
    features = torch.ones(2, 3, requires_grad=True)
    accumulator = GramAccumulator(2)
    accumulator.update(features * torch.tensor([[1.0], [2.0]]))
    assert not accumulator.signature().requires_grad


@pytest.mark.parametrize("per_voxel", [False, True])
def test_full_form_holds_the_logarithms_as_they_are_and_the_spread_of_every_channel(per_voxel):
    features = features_with_spectrum(1e-2) + 0.3
    matrix = features.reshape(6, -1)
    values = torch.linalg.svdvals(matrix.T) / (math.sqrt(matrix.shape[1]) if per_voxel else 1)
    expected = torch.cat([values.log(), matrix.std(dim=1, correction=0).log()])
    whole = GramAccumulator(6).update(features[:, :3]).update(features[:, 3:])
    assert_close(whole.signature(per_voxel, "full"), expected, rtol=0, atol=1e-9)


def test_constant_channel_counts_as_eps_of_the_largest_singular_value_per_voxel():
    features = torch.stack([torch.linspace(0, 1, 50), torch.full((50,), 3.0)])
    signature = GramAccumulator(2).update(features).signature(per_voxel=True, form="full")
    assert float(signature[3]) == pytest.approx(math.log(EPS) + float(signature[0]), rel=0, abs=1e-6)


def test_spread_of_nothing_is_refused():
    with pytest.raises(FeatureError, match="no voxel was added"):
        GramAccumulator(2).channel_spreads()
