"""Hidden blocks as another task of pre-training."""

import pytest
import torch
from torch.testing import assert_close

from common.denoising import CoarseNoise, HideBlocks, make_pretext
from common.errors import ConfigError
from common.runtime.seeds import step_generator


@pytest.mark.parametrize("size", [(32, 32), (16, 24, 8)], ids=str)
def test_blocks_are_hidden_and_the_rest_stays(size):
    images = torch.rand(3, 2, *size) + 0.1
    batch = HideBlocks(mask_resolution=4)({"image": images}, step_generator(0))
    kept = batch["image"] != 0
    assert torch.equal(batch["label"], images)
    assert torch.equal(batch["image"][kept], images[kept])
    assert torch.equal(kept[:, 0], kept[:, 1]), "all channels together"
    blocks = kept[:, 0]
    for axis, extent in enumerate(size, start=1):
        blocks = blocks.unflatten(axis, (4, extent // 4)).movedim(axis + 1, -1)
    same = blocks.flatten(-len(size))
    assert torch.equal(same.all(dim=-1), same.any(dim=-1)), "whole blocks"
    assert 0 < float(kept.float().mean()) < 1


def test_share_of_hidden_blocks_is_as_asked():
    drawn = HideBlocks(mask_share=0.3).draw((400, 1, 16, 16), step_generator(0))
    assert float(1 - drawn.mean()) == pytest.approx(0.3, abs=0.02)


def test_draws_follow_the_generator():
    images = torch.ones(2, 1, 16, 16)
    first, again, other = (HideBlocks()({"image": images}, step_generator(seed))["image"] for seed in (1, 1, 2))
    assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)


def test_task_is_chosen_by_name():
    noise = make_pretext(noise_sd=0.3)
    assert isinstance(noise, CoarseNoise)
    assert noise.noise_sd == 0.3
    assert make_pretext("mask", mask_share=0.7).mask_share == 0.7
    with pytest.raises(ConfigError, match="pretext is 'blur'; accepted are noise, mask"):
        make_pretext("blur")
    with pytest.raises(ConfigError, match="mask_share is 1 and mask_resolution 8; accepted are"):
        make_pretext("mask", mask_share=1)
