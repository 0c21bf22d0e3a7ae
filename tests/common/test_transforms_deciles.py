import numpy as np
import pytest
import torch
from torch.testing import assert_close

from common.errors import ConfigError
from common.transforms import MatchDecilesd
from common.transforms.deciles import LANDMARKS, landmarks, match_landmarks, standard_landmarks


def scan(seed, shape=(2, 12, 10, 8)):
    image = torch.from_numpy(np.random.default_rng(seed).gamma(2.0, 50.0, shape)).float()
    image[:, :3] = 0
    return image


def standard_of(*images):
    return standard_landmarks(map(landmarks, images))


def test_landmarks_are_numpys_quantiles_of_the_foreground():
    image = scan(0)
    for channel, found in zip(image, landmarks(image), strict=True):
        values = channel[channel > 0].numpy().astype(float)
        assert_close(found.double(), torch.from_numpy(np.quantile(values, LANDMARKS)), rtol=1e-5, atol=1e-4)


def test_standard_is_the_mean_of_scaled_landmarks():
    images = [scan(0), 3 * scan(1) + 7]
    expected = torch.stack([(q - q[:, :1]) / (q[:, -1:] - q[:, :1]) for q in map(landmarks, images)]).mean(dim=0)
    assert_close(standard_of(*images).float(), expected)


def test_matched_landmarks_are_the_standard():
    standard = standard_of(scan(0), scan(1))
    matched = match_landmarks(scan(2), standard)
    foreground = scan(2) > 0
    for channel in range(2):
        values = matched[channel][foreground[channel]].double().numpy()
        assert_close(
            torch.from_numpy(np.quantile(values, LANDMARKS)).float(), standard[channel].float(), atol=2e-3, rtol=2e-3
        )


def test_scale_and_offset_of_a_scanner_do_not_matter():
    standard, image = standard_of(scan(0)), scan(2)
    assert_close(match_landmarks(5 * image + 3, standard), match_landmarks(image, standard), atol=1e-4, rtol=1e-4)


def test_order_of_intensities_stays():
    image = scan(3, (1, 6, 6, 6))
    matched = match_landmarks(image, standard_of(scan(0, (1, 6, 6, 6))))
    order = image.flatten().argsort(stable=True)
    assert (matched.flatten()[order].diff() >= -1e-5).all()


def test_channel_without_foreground_is_zero_and_few_levels_do_not_divide_by_zero():
    standard = standard_of(scan(0))
    image = scan(1)
    image[0] = 4.0
    image[1] = (image[1] > 60).float()
    matched = match_landmarks(image, standard)
    assert torch.equal(matched[0], torch.zeros_like(matched[0]))
    assert matched.isfinite().all()


def test_transform_refuses_what_does_not_fit():
    standard = standard_of(scan(0)).tolist()
    case = {"image": scan(1), "label": 1}
    matched = MatchDecilesd("image", standard)(case)["image"]
    assert_close(matched, match_landmarks(scan(1), torch.tensor(standard)).clamp(min=0))
    assert (matched[:, :3] == 0).all()
    with pytest.raises(ConfigError, match="standard has 2 channel"):
        MatchDecilesd("image", standard)({"image": scan(1)[:1]})
    with pytest.raises(ConfigError, match="11 rising landmarks"):
        MatchDecilesd("image", [standard[0][::-1]])


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(ConfigError, match="no image to learn"):
        standard_of()
    with pytest.raises(ConfigError, match="differ in their number of channels"):
        standard_of(scan(0), scan(1, (1, 4, 4, 4)))
    with pytest.raises(ConfigError, match="no foreground in any image"):
        standard_of(torch.ones(1, 4, 4))
