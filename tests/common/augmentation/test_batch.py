import math

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform
from torch.nn.functional import affine_grid, grid_sample
from torch.testing import assert_close

from common.augmentation import (
    AugmentationParameters,
    BatchAugmentation,
    apply_augmentation,
    change_gamma,
    normalized_matrix,
    resample,
    rotation_matrix,
)
from common.errors import ConfigError
from common.runtime.seeds import step_generator

STRONG = {
    "rotation": 25, "scaling": 0.2, "translation": 0.1, "gain": 0.3, "offset": 0.2, "gamma": 0.4, "noise": 0.1,
}  # fmt: skip
SHAPES = {2: (3, 2, 12, 9), 3: (3, 1, 8, 10, 6)}


def batch(dims, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(SHAPES[dims], generator=generator)
    labels = torch.randint(0, 4, (SHAPES[dims][0], 1, *SHAPES[dims][2:]), generator=generator)
    return images, labels


def augmentation(dims, **settings):
    return BatchAugmentation(dims, **{"flip_axes": range(dims)} | STRONG | settings)


@pytest.mark.parametrize("dims", [2, 3])
def test_same_step_gives_the_same_and_another_step_another(dims):
    images, labels = batch(dims)
    first = augmentation(dims)(images, labels, generator=step_generator(3, 1, 2))
    again = augmentation(dims)(images, labels, generator=step_generator(3, 1, 2))
    for one, other in zip(first, again, strict=True):
        assert_close(one, other, rtol=0, atol=0)
    assert not torch.equal(first[0], augmentation(dims)(images, labels, generator=step_generator(3, 1, 3))[0])
    assert not torch.equal(first[0], augmentation(dims)(images, labels, generator=step_generator(4, 1, 2))[0])


@pytest.mark.parametrize("dims", [2, 3])
def test_zero_strength_changes_no_bit(dims):
    images, labels = batch(dims)
    same, untouched = BatchAugmentation(dims)(images, labels, generator=step_generator(0, 0))
    assert torch.equal(same, images)
    assert torch.equal(untouched, labels)


def parameters_of(drawn, index):
    """The parameters of some images of a batch."""
    parts = {name: part if part is None else part[index] for name, part in vars(drawn).items()}
    return AugmentationParameters(**parts)


@pytest.mark.parametrize("dims", [2, 3])
def test_batch_equals_its_images_one_by_one(dims):
    images, labels = batch(dims)
    change = augmentation(dims)
    drawn = change.draw(images.shape, step_generator(0, 5))
    whole = apply_augmentation(images, drawn, labels=labels)
    for index in range(len(images)):
        one = slice(index, index + 1)
        alone = apply_augmentation(images[one], parameters_of(drawn, one), labels=labels[one])
        assert_close(alone[0], whole[0][one])
        assert torch.equal(alone[1], whole[1][one])


@pytest.mark.parametrize("dims", [2, 3])
def test_geometry_equals_an_affine_grid_for_each_image(dims):
    images, labels = batch(dims)
    change = augmentation(dims, gain=0, offset=0, gamma=0, noise=0)
    drawn = change.draw(images.shape, step_generator(0, 1))
    moved, moved_labels = apply_augmentation(images, drawn, labels=labels)
    theta = normalized_matrix(drawn.matrix, drawn.translation, images.shape[2:])
    for index in range(len(images)):
        grid = affine_grid(theta[index : index + 1], [1, 1, *images.shape[2:]], align_corners=False)
        settings = {"padding_mode": "border", "align_corners": False}
        assert_close(moved[index : index + 1], grid_sample(images[index : index + 1], grid, **settings))
        nearest = grid_sample(labels[index : index + 1].float(), grid, mode="nearest", **settings)
        assert torch.equal(moved_labels[index : index + 1], nearest.long())


@pytest.mark.parametrize("dims", [2, 3])
def test_voxel_coordinates_are_those_of_scipy(dims):
    images, _ = batch(dims)
    change = augmentation(dims, gain=0, offset=0, gamma=0, noise=0)
    drawn = change.draw(images.shape, step_generator(0, 2))
    moved, _ = apply_augmentation(images, drawn, padding="border")
    center = (np.array(images.shape[2:]) - 1) / 2
    for index in range(len(images)):
        matrix, shift = drawn.matrix[index].numpy(), drawn.translation[index].numpy()
        expected = affine_transform(
            images[index, 0].numpy(), matrix, offset=center + shift - matrix @ center, order=1, mode="nearest"
        )
        assert_close(moved[index, 0], torch.from_numpy(expected), atol=1e-4, rtol=1e-4)


def test_quarter_turns_and_flips_move_voxels_without_changing_them():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    seen = set()
    change = BatchAugmentation(2, flip_axes=(0,), quarter_turns=True)
    views = [image.rot90(turns, (2, 3)) for turns in range(4)]
    views += [view.flip(2) for view in views]
    for step in range(80):
        moved, _ = change(image, generator=step_generator(0, step))
        matches = [index for index, view in enumerate(views) if torch.allclose(moved, view, atol=1e-4)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == set(range(8))


def test_flip_along_one_axis_alone():
    images, labels = batch(3)
    flipped, labels_flipped = BatchAugmentation(3, flip_axes=[1])(images, labels, generator=step_generator(0, 0))
    for index in range(len(images)):
        same = torch.allclose(flipped[index], images[index], atol=1e-5)
        expected = images[index] if same else images[index].flip(2)
        assert_close(flipped[index], expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(labels_flipped[index], labels[index] if same else labels[index].flip(2))


def test_rotation_keeps_lengths_in_millimeters():
    change = BatchAugmentation(3, rotation=(30, 0, 0), voxel_size=(1.0, 1.0, 8.0))
    drawn = change.draw((5, 1, 16, 16, 16), step_generator(0, 0))
    spacing = torch.tensor([1.0, 1.0, 8.0])
    points = torch.tensor([[0.0, 8.0, 0.0], [0.0, 0.0, 1.0], [3.0, 8.0, 2.0]])
    mapped = torch.einsum("bij,pj->bpi", drawn.matrix, points)
    assert_close((mapped * spacing).norm(dim=2), (points * spacing).norm(dim=1).expand(5, -1))


def test_rotation_matrix_is_a_product_about_the_axes():
    angles = torch.tensor([[0.3, -0.5, 0.7]])
    cosine, sine = angles[0].cos(), angles[0].sin()
    first = torch.tensor([[1, 0, 0], [0, cosine[0], -sine[0]], [0, sine[0], cosine[0]]])
    second = torch.tensor([[cosine[1], 0, sine[1]], [0, 1, 0], [-sine[1], 0, cosine[1]]])
    third = torch.tensor([[cosine[2], -sine[2], 0], [sine[2], cosine[2], 0], [0, 0, 1]])
    assert_close(rotation_matrix(angles, 3)[0], third @ second @ first)


def test_scaling_enlarges_what_is_shown():
    image = torch.zeros(1, 1, 21, 21)
    image[..., 8:13, 8:13] = 1
    half = AugmentationParameters(torch.eye(2)[None] / 2, torch.zeros(1, 2))
    moved, _ = apply_augmentation(image, half)
    assert moved.sum() == pytest.approx(100, abs=4)


def test_intensities_alone_leave_labels_alone():
    images, labels = batch(2)
    changed, same = BatchAugmentation(2, gain=0.2, offset=0.1, gamma=0.2, noise=0.1)(
        images, labels, generator=step_generator(0, 0)
    )
    assert same is labels
    assert not torch.allclose(changed, images)


def test_gamma_keeps_minimum_and_maximum():
    images, _ = batch(2)
    changed = change_gamma(images, torch.full((3, 2), 2.0))
    low, high = images[1, 1].min(), images[1, 1].max()
    assert_close(changed[1, 1], ((images[1, 1] - low) / (high - low)) ** 2 * (high - low) + low)
    assert torch.equal(
        change_gamma(torch.full((1, 1, 4, 4), 3.0), torch.full((1, 1), 2.0)), torch.full((1, 1, 4, 4), 3.0)
    )


def test_draws_stay_in_their_ranges():
    change = augmentation(2)
    drawn = change.draw((2000, 1, 4, 4), step_generator(0, 0))
    assert 0.7 <= drawn.gain.min() < 0.72
    assert 1.28 < drawn.gain.max() <= 1.3
    assert -0.2 <= drawn.offset.min() < -0.19
    assert drawn.gamma.min() >= 1 / 1.4 - 1e-6
    assert 1.38 < drawn.gamma.max() <= 1.4 + 1e-6
    scale = drawn.matrix.det().abs().rsqrt()
    assert 0.8 - 1e-5 <= scale.min() < 0.81
    assert 1.19 < scale.max() <= 1.2 + 1e-5
    assert drawn.translation.abs().max() <= 0.4
    angle = torch.atan2(drawn.matrix[:, 1, 0].abs(), drawn.matrix[:, 0, 0].abs())
    assert angle.max() <= math.radians(25) + 1e-5
    assert (drawn.matrix.det() < 0).float().mean() == pytest.approx(0.5, abs=0.05)


def test_labels_keep_their_dtype_and_values():
    images, labels = batch(2)
    for kind in (torch.uint8, torch.int64, torch.float32):
        _, moved = augmentation(2)(images, labels.to(kind), generator=step_generator(0, 0))
        assert moved.dtype == kind
        assert set(moved.unique().tolist()) <= {0, 1, 2, 3}


def test_zeros_come_in_where_nothing_was():
    image = torch.ones(1, 1, 8, 8)
    theta = normalized_matrix(torch.eye(2)[None], torch.tensor([[4.0, 0.0]]), (8, 8))
    assert_close(resample(image, theta, mode="nearest", padding_mode="zeros")[0, 0].sum(), torch.tensor(32.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip_axes": [2]}, "flip_axes is [2]; accepted are different axes from 0 to 1"),
        ({"flip_axes": [0, 0]}, "flip_axes is [0, 0]; accepted are different axes"),
        ({"rotation": 181}, "rotation is [181.0]; accepted are 1 angle(s)"),
        ({"rotation": [1, 2]}, "rotation is [1, 2]; accepted are 1 angle(s)"),
        ({"scaling": 1}, "scaling is 1; accepted are numbers from 0 and below 1"),
        ({"gain": -0.1}, "gain is -0.1"),
        ({"gamma": math.nan}, "gamma is nan"),
        ({"translation": 1.5}, "translation is 1.5; accepted are shares from 0 to 1"),
        ({"noise": -1}, "noise is -1"),
        ({"voxel_size": [1, 0]}, "voxel_size is [1, 0]; accepted are 2 sizes above 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError) as caught:
        BatchAugmentation(2, **settings)
    assert message in str(caught.value)


def test_quarter_turns_of_oblong_images_are_refused():
    with pytest.raises(ConfigError, match="quarter_turns needs equal first two axes, not 4 and 6"):
        BatchAugmentation(2, quarter_turns=True)(torch.zeros(1, 1, 4, 6), generator=step_generator(0, 0))


def test_labels_may_belong_to_the_first_images_alone():
    images, labels = batch(3)
    change = augmentation(3)
    drawn = change.draw(images.shape, step_generator(0, 4))
    whole = apply_augmentation(images, drawn, labels=labels)
    some = apply_augmentation(images, drawn, labels=labels[:2])
    assert torch.equal(some[0], whole[0])
    assert torch.equal(some[1], whole[1][:2])


def test_single_slices_are_turned_in_their_plane_alone():
    images = torch.rand(4, 1, 9, 9, 1)
    turned, _ = BatchAugmentation(3, rotation=40)(images, generator=step_generator(0, 1))
    in_plane, _ = BatchAugmentation(3, rotation=[0, 0, 40])(images, generator=step_generator(0, 1))
    assert not torch.equal(turned, images)
    assert_close(turned, in_plane)
