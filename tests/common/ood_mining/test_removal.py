import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch.testing import assert_close

from common.errors import BundleError, ConfigError, LabelError
from common.ood_mining import removal_weights, remove_foreground

FILLS = pytest.mark.parametrize("fill", ["zero", "mean", "noise", "inpaint"])
SHAPES = pytest.mark.parametrize("shape", [(3, 12, 10), (1, 12, 10), (2, 7, 6, 8)], ids=str)
KINDS = pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.float32, torch.float64], ids=str)


def sample(shape, kind=torch.float32, seed=0):
    """A patch whose background lies in 100..150 and whose foreground, in the middle, is 250."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(100, 151, shape, generator=generator)
    label = torch.zeros(1, *shape[1:], dtype=torch.uint8)
    label[(0, *[slice(2, 5)] * (len(shape) - 1))] = 2
    return torch.where(label > 0, torch.tensor(250 if kind is torch.uint8 else 2500), image).to(kind), label


def slow_fill(image, label, fill, generator):
    """Pixel by pixel, in plain Python."""
    result, spatial = image.clone(), label[0]
    places = [tuple(place) for place in (spatial == 0).nonzero().tolist()]
    removed = [tuple(place) for place in (spatial != 0).nonzero().tolist()]
    drawn = torch.randint(len(places), (len(removed),), generator=generator).tolist() if fill == "noise" else None
    for channel in range(len(image)):
        for number, place in enumerate(removed):
            value = 0.0
            if fill == "mean":
                value = sum(float(image[(channel, *other)]) for other in places) / len(places)
            if fill == "noise":
                value = float(image[(channel, *places[drawn[number]])])
            result[(channel, *place)] = value if image.is_floating_point() else round(value)
    return result


@KINDS
@SHAPES
@pytest.mark.parametrize("fill", ["zero", "mean", "noise"])
def test_fill_agrees_with_a_loop_over_pixels(fill, shape, kind):
    image, label = sample(shape, kind)
    found = remove_foreground(image, label, fill=fill, generator=torch.Generator().manual_seed(3))
    expected = slow_fill(image, label, fill, torch.Generator().manual_seed(3))
    assert_close(found, expected, rtol=1e-6, atol=0)


@FILLS
@KINDS
@SHAPES
def test_background_and_image_stay_as_they_are(fill, shape, kind):
    image, label = sample(shape, kind)
    before = image.clone()
    found = remove_foreground(image, label, fill=fill, generator=torch.Generator())
    outside = (label[0] == 0).expand(shape)
    assert found.dtype == kind
    assert torch.equal(found[outside], before[outside])
    assert torch.equal(image, before)
    assert float(found[~outside].double().max()) <= 150, "nothing of the foreground is left"


@SHAPES
def test_inpainting_continues_a_ramp(shape):
    ramp = torch.arange(shape[1], dtype=torch.float64).reshape(-1, *[1] * (len(shape) - 2)).expand(shape)
    _, label = sample(shape)
    spoilt = torch.where(label > 0, torch.tensor(-99.0, dtype=torch.float64), ramp)
    assert_close(remove_foreground(spoilt, label, fill="inpaint"), ramp.clone(), rtol=0, atol=1e-6)


def test_mean_is_that_of_each_channel():
    image = torch.tensor([[[1.0, 3, 100]], [[10, 20, 100]]])
    found = remove_foreground(image, torch.tensor([[[0, 0, 1]]]), fill="mean")
    assert found[:, 0, 2].tolist() == [2, 15]


def test_noise_keeps_the_channels_of_a_pixel_together_and_follows_its_generator():
    image, label = sample((3, 12, 10))
    background = {tuple(pixel) for pixel in image[:, label[0] == 0].T.tolist()}
    draws = [
        remove_foreground(image, label, fill="noise", generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert {tuple(pixel) for pixel in draws[0][:, label[0] != 0].T.tolist()} <= background
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@FILLS
def test_patch_of_nothing_but_foreground_becomes_zero(fill):
    found = remove_foreground(torch.full((2, 4, 4), 7.0), torch.ones(1, 4, 4), fill=fill)
    assert torch.equal(found, torch.zeros(2, 4, 4))


@FILLS
def test_patch_within_the_soft_rim_keeps_what_is_replaced_in_part(fill):
    image, weights = sample((2, 4, 4))[0] + 1, torch.full((4, 4), 0.6, dtype=torch.float64)
    label = torch.zeros(1, 4, 4)
    assert torch.equal(remove_foreground(image, label, fill=fill, weights=weights), image)
    weights[0] = 1
    found = remove_foreground(image, label, fill=fill, weights=weights)
    assert torch.equal(found[:, 1:], image[:, 1:])
    assert not torch.equal(found[:, 0], image[:, 0])


@FILLS
def test_patch_without_foreground_is_unchanged(fill):
    image, _ = sample((3, 6, 6))
    assert torch.equal(remove_foreground(image, torch.zeros(1, 6, 6), fill=fill), image)


def test_arrays_and_labels_without_a_channel_are_taken():
    image, label = sample((1, 8, 8), torch.uint8)
    expected = remove_foreground(image, label).numpy()
    for given, mask in (
        (image[0], label[0]),
        (image, label[0]),
    ):
        found = remove_foreground(given.numpy(), mask.numpy())
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.uint8
        assert_array_equal(found, expected.reshape(given.shape))


def test_wrong_arguments_are_named():
    image, label = sample((3, 6, 6))
    with pytest.raises(ConfigError, match="fill is 'black'; accepted are zero, mean, noise, inpaint"):
        remove_foreground(image, label, fill="black")
    with pytest.raises(LabelError, match=r"label of shape \(1, 6, 5\), image of shape \(3, 6, 6\)") as caught:
        remove_foreground(image, label[..., :5])
    assert isinstance(caught.value, BundleError)


def test_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr("common.ood_mining.removal.optional_import", lambda *_, **__: (None, False))
    with pytest.raises(ConfigError, match="install it with 'pip install scikit-image'"):
        remove_foreground(*sample((1, 8, 8)), fill="inpaint")


def slow_weights(mask, dilation, feather):
    """The distance to the nearest pixel of the foreground decides, pixel by pixel."""
    found = [np.array(place) for place in np.argwhere(mask)]
    weights = np.zeros(mask.shape)
    for place in np.ndindex(*mask.shape):
        beyond = max(min(np.linalg.norm(np.array(place) - other) for other in found) - (dilation or 0), 0)
        if feather is None:
            weights[place] = beyond == 0
        else:
            weights[place] = 0.5 + 0.5 * np.cos(np.pi * min(beyond / (feather + 1), 1))
    return torch.from_numpy(weights)


@pytest.mark.parametrize(("dilation", "feather"), [(None, None), (2, None), (None, 2), (1, 3)], ids=str)
@SHAPES
def test_weights_agree_with_distances_pixel_by_pixel(shape, dilation, feather):
    mask = sample(shape)[1][0] != 0
    found = removal_weights(mask, dilation=dilation, feather=feather)
    assert_close(found, slow_weights(mask.numpy(), dilation, feather), rtol=0, atol=1e-12)
    assert removal_weights(mask * False, dilation=dilation, feather=feather).sum() == 0


@FILLS
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32], ids=str)
def test_fill_fades_into_the_image(fill, kind):
    image, label = sample((2, 14, 14), kind)
    weights = removal_weights(label[0] != 0, dilation=1, feather=2)
    sharp, soft = (
        remove_foreground(image, label, fill=fill, dilation=1, feather=feather, generator=torch.Generator())
        for feather in (None, 2)
    )
    assert torch.equal(soft[:, weights == 0], image[:, weights == 0])
    assert float(soft[:, label[0] > 0].double().max()) <= 150
    rim = (weights > 0) & (weights < 1)
    assert rim.any()
    assert not torch.equal(soft[:, rim], image[:, rim])
    assert torch.equal(sharp[:, rim], image[:, rim]), "only the dilated foreground is replaced"
    if fill == "zero":
        expected = (1 - weights[rim]) * image[:, rim].double()
        assert_close(soft[:, rim].double(), expected, rtol=1e-6, atol=0.51 if kind is torch.uint8 else 1e-6)


@pytest.mark.parametrize("width", [0, 1.5])
@pytest.mark.parametrize("name", ["dilation", "feather"])
def test_widths_that_are_no_pixels_are_refused(name, width):
    with pytest.raises(ConfigError, match=f"{name} is {width}; accepted are whole numbers from 1, or null for none"):
        remove_foreground(*sample((1, 6, 6)), **{name: width})
