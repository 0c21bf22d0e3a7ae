import pytest
import torch
from torch import nn
from torch.testing import assert_close

from common.augmentation import AugmentBatch, BatchAugmentation
from common.runtime.seeds import step_generator

STRONG = {"rotation": 30, "gain": 0.4, "noise": 0.2}


def augmented(batch, *, step=0, **settings):
    return AugmentBatch(BatchAugmentation(2, **STRONG), **settings)(batch, step_generator(0, step))


def make_batch(**more):
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.rand(3, 1, 8, 8, generator=generator), "label": torch.ones(2, 1, 8, 8), **more}


def test_images_and_labels_are_those_of_the_augmentation():
    given = make_batch(presence=torch.ones(3))
    before = given["image"].clone()
    seen = augmented(given)
    image, label = BatchAugmentation(2, **STRONG)(given["image"], given["label"], generator=step_generator(0, 0))
    assert_close(seen["image"], image, rtol=0, atol=0)
    assert_close(seen["label"], label, rtol=0, atol=0)
    assert seen["presence"] is given["presence"]
    assert not torch.equal(seen["image"], augmented(given, step=1)["image"])
    # Loaders may keep their batches.
    assert torch.equal(given["image"], before)


def test_unlabeled_images_and_second_views_have_draws_of_their_own():
    batch = make_batch()
    seen = augmented(batch | {"unlabeled": batch["image"].clone()}, second_view=True)
    views = [seen[name] for name in ("image", "unlabeled", "view")]
    assert all(view.shape == (3, 1, 8, 8) for view in views)
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert not torch.allclose(views[one], views[other])
    assert "view" not in augmented(batch)


def test_draws_for_labeled_images_do_not_depend_on_what_else_the_batch_holds():
    batch = make_batch()
    alone = augmented(batch)
    more = augmented(batch | {"unlabeled": torch.rand(5, 1, 9, 7)}, second_view=True)
    for name in ("image", "label"):
        assert_close(more[name], alone[name], rtol=0, atol=0)


@pytest.mark.parametrize("label", [None, torch.ones(3, 2, 8, 8)])
def test_batches_without_labels_and_with_channels(label):
    batch = {"image": torch.rand(3, 1, 8, 8)} | ({} if label is None else {"label": label})
    seen = augmented(batch)
    assert set(seen) == set(batch)
    assert nn.functional.mse_loss(seen["image"], batch["image"]) > 0


def test_negatives_stay_as_they_are_where_asked_for():
    """All others get what they would get anyway, and all labels move."""
    given = make_batch(ood=torch.tensor([True, False, True]), label=torch.rand(3, 1, 8, 8))
    spared, plain = (augmented(given, augment_ood=augment) for augment in (False, True))
    assert torch.equal(spared["image"][[0, 2]], given["image"][[0, 2]])
    assert torch.equal(spared["image"][1], plain["image"][1])
    assert torch.equal(spared["label"], plain["label"])
    assert not torch.equal(plain["image"][0], given["image"][0])
