"""Rivals of the denoiser: what a few components explain, and what lies far from the mean of its place."""

import pytest
import torch
from torch.testing import assert_close

from common.denoising import anomaly_score, learned_rivals, rivals
from common.denoising.rivals import atlas_scorer, pca_scorer, principal_components


def healthy(number=12, size=(12, 12), channels=2):
    """Mixtures of two patterns and noise, all of them foreground."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(2, channels, *size, generator=generator)
    weights = torch.rand(number, 2, generator=generator)
    return 0.5 + torch.einsum("nk,kcxy->ncxy", weights, patterns)


def with_spot(images):
    spoilt = images.clone()
    spoilt[:, :, 4:9, 4:9] += 1.5
    return spoilt


def test_components_are_those_of_a_singular_value_decomposition():
    images = healthy() + 0.01 * torch.randn(12, 2, 12, 12, generator=torch.Generator().manual_seed(1))
    mean, axes = principal_components(images, 3)
    centered = images.flatten(1) - images.flatten(1).mean(dim=0)
    _, _, expected = torch.linalg.svd(centered.double(), full_matrices=False)
    assert_close(mean, images.flatten(1).mean(dim=0))
    assert_close(axes @ axes.T, torch.eye(3), rtol=0, atol=1e-4)
    signs = (axes.double() * expected[:3]).sum(dim=1, keepdim=True).sign()
    assert_close(axes.double(), signs * expected[:3], rtol=0, atol=1e-3)


def test_there_are_no_more_components_than_the_images_have():
    assert len(principal_components(healthy(), 32)[1]) == 2
    assert len(principal_components(torch.ones(3, 1, 4, 4), 2)[1]) == 0


@pytest.mark.parametrize("make", [pca_scorer, atlas_scorer])
def test_spots_are_found(make):
    images = healthy()
    scorer = make(images)
    score, classes = scorer(with_spot(images[:3]))
    assert classes is None
    assert score.shape == (3, 1, 12, 12)
    inside = score[:, :, 5:8, 5:8].mean()
    assert float(inside) > 5 * float(score[:, :, [2, -3]].mean())


def test_healthy_images_are_explained():
    images = healthy()
    assert float(pca_scorer(images)(images)[0].max()) < 1e-4


def test_atlas_counts_standard_deviations():
    images = healthy()
    distance = (images - images.mean(dim=0)).abs() / images.std(dim=0).clamp(min=0.1)
    expected = anomaly_score(images, images - distance)
    assert_close(atlas_scorer(images)(images)[0], expected, rtol=0, atol=1e-5)


def test_one_image_teaches_nothing():
    assert learned_rivals(list(healthy(1))) == {}
    assert set(learned_rivals(list(healthy(2)))) == {"pca", "atlas"}


@pytest.mark.parametrize(("most", "kept"), [(100, slice(None)), (12, slice(None)), (5, slice(None, None, 3))])
def test_no_more_images_are_learned_from_than_can_be(monkeypatch, most, kept):
    monkeypatch.setattr(rivals, "MOST_IMAGES", most)
    images = healthy() + 0.1 * torch.randn(12, 2, 12, 12, generator=torch.Generator().manual_seed(1))
    found = learned_rivals(list(images))
    for name, make in (("pca", pca_scorer), ("atlas", atlas_scorer)):
        assert_close(found[name](images)[0], make(images[kept])(images)[0])
