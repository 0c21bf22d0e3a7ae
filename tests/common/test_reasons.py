import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from torch import nn

from common.errors import ConfigError, ImageError
from common.runtime.reasons import GEOMETRY, MEMORY, SMALL, plain_reason, plain_training_errors


def turn(affine):
    Orientation("RAS", labels=None)(MetaTensor(torch.ones(1, 2, 2, 2), affine=torch.tensor(affine)))


CAUSES = {
    "svd": (lambda: np.linalg.svd(np.full((3, 3), np.nan)), GEOMETRY),
    "not finite": (lambda: turn(np.diag([np.nan, 1, 1, 1])), GEOMETRY),
    "singular": (lambda: np.linalg.inv(np.zeros((3, 3))), GEOMETRY),
    "axes": (lambda: nib.orientations.ornt_transform(np.eye(3)[:, :2], np.ones((3, 2)) * 2), GEOMETRY),
    "one voxel": (lambda: nn.InstanceNorm3d(1)(torch.ones(1, 1, 1, 1, 1)), SMALL),
    "one value": (lambda: nn.BatchNorm2d(1)(torch.ones(1, 1, 1, 1)), SMALL),
    "no window": (lambda: nn.MaxPool2d(4)(torch.ones(1, 1, 2, 2)), SMALL),
    "kernel": (lambda: nn.Conv2d(1, 1, 5)(torch.ones(1, 1, 2, 2)), SMALL),
    "no room": (lambda: torch.empty(2**60), MEMORY),
    "no array": (lambda: np.ones(2**50), MEMORY),
}


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.tried(
    "Damaged and unusable scans",
    "Errors that only a library words, such as a singular matrix",
    "The row says in plain words what is wrong and what to do.",
)
def test_what_libraries_say_is_put_in_plain_words(cause, wrapped):
    work, text = CAUSES[cause]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each library has errors of its own
        work()
    error = caught.value
    if wrapped:
        # As MONAI does around every transform.
        error = RuntimeError("applying transform <class 'Orientation'>")
        error.__cause__ = caught.value
    assert plain_reason(error) == text


def test_our_own_words_are_kept_and_unforeseen_ones_are_told_to_report():
    error = RuntimeError("applying transform")
    error.__cause__ = ImageError("case 'a': image is broken; copy it again")
    assert plain_reason(error) == "case 'a': image is broken; copy it again"
    text = plain_reason(ZeroDivisionError("by\nzero"))
    assert text.startswith("it cannot be segmented for a reason that is not foreseen (ZeroDivisionError: by zero); ")


@pytest.mark.parametrize("cause", ["one voxel", "one value", "no window", "kernel"])
def test_training_with_patches_that_shrink_to_nothing_names_the_option(cause):
    with (
        pytest.raises(
            ConfigError, match=r"^training: the patches are too small .* raise roi_size, .* spacing"
        ) as caught,
        plain_training_errors(),
    ):
        CAUSES[cause][0]()
    assert isinstance(caught.value.__cause__, ValueError | RuntimeError)


@pytest.mark.parametrize(
    "error", [ValueError("other"), RuntimeError("other"), ImageError("more than 1 value per channel")]
)
def test_other_errors_of_a_training_stay(error):
    with pytest.raises(type(error)) as caught, plain_training_errors():
        raise error
    assert caught.value is error
