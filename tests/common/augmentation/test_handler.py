import pytest
import torch
from ignite.engine import Engine
from torch import nn
from torch.testing import assert_close

from common.augmentation import AugmentBatch, BatchAugmentation, handler

STRONG = {"rotation": 30, "gain": 0.4, "noise": 0.2}


def seen_batches(batches, *, epochs=2, start=0, **settings):
    """The batches that the steps of a training see."""
    seen = []
    engine = Engine(lambda engine, batch: seen.append(batch))
    engine.state.device = torch.device("cpu")
    AugmentBatch(BatchAugmentation(2, **STRONG), **settings).attach(engine)
    engine.state.epoch = start
    engine.run(batches, max_epochs=epochs, epoch_length=len(batches))
    return seen


def make_batches(count=2, **more):
    generator = torch.Generator().manual_seed(1)
    return [
        {"image": torch.rand(3, 1, 8, 8, generator=generator), "label": torch.ones(2, 1, 8, 8), **more}
        for _ in range(count)
    ]


def test_step_sees_what_the_augmentation_makes_of_the_batch():
    batches = make_batches(names=["a", "b", "c"])
    seen = seen_batches(batches)
    change = BatchAugmentation(2, **STRONG)
    for number, batch in enumerate(seen):
        given = batches[number % 2]
        image, label = change(given["image"], given["label"], step=(number // 2 + 1, number, 0, 0))
        assert_close(batch["image"], image, rtol=0, atol=0)
        assert_close(batch["label"], label, rtol=0, atol=0)
        assert batch["names"] == given["names"]
    assert not torch.equal(seen[0]["image"], seen[2]["image"])


def test_loader_keeps_its_batches():
    batches = make_batches()
    before = batches[0]["image"].clone()
    seen_batches(batches)
    assert torch.equal(batches[0]["image"], before)


def test_unlabeled_images_and_second_views_have_draws_of_their_own():
    (batch,) = make_batches(1)
    batch["unlabeled"] = batch["image"].clone()
    (seen,) = seen_batches([batch], epochs=1, second_view=True)
    views = [seen[name] for name in ("image", "unlabeled", "view")]
    assert all(view.shape == (3, 1, 8, 8) for view in views)
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert not torch.allclose(views[one], views[other])
    assert "view" not in seen_batches(make_batches(1), epochs=1)[0]


def test_processes_draw_apart(monkeypatch):
    first = seen_batches(make_batches(1), epochs=1)
    monkeypatch.setattr(handler, "process_rank", lambda: 1)
    assert not torch.equal(seen_batches(make_batches(1), epochs=1)[0]["image"], first[0]["image"])


@pytest.mark.parametrize("label", [None, torch.ones(3, 2, 8, 8)])
def test_batches_without_labels_and_with_channels(label):
    batch = {"image": torch.rand(3, 1, 8, 8)} | ({} if label is None else {"label": label})
    (seen,) = seen_batches([batch], epochs=1)
    assert set(seen) == set(batch)
    assert nn.functional.mse_loss(seen["image"], batch["image"]) > 0
