"""Batches are changed between loader and step, by draws that depend on the step alone."""

import pytest
import torch
from ignite.engine import Engine, Events

from common.handlers import ChangeBatch
from common.runtime.seeds import step_generator


def trace(*, seed=0, epochs=3, start=0, value=0.0, **settings):
    """What two steps of each epoch see; draws are added to images of one value."""
    seen = []
    engine = Engine(lambda _engine, batch: seen.append(batch["image"]))
    engine.state.device = torch.device("cpu")
    add = ChangeBatch(
        lambda batch, draw: {"image": batch["image"] + torch.rand(3, generator=draw)}, seed=seed, **settings
    )
    add.attach(engine)
    # As a run that goes on from the checkpoint of an epoch.
    engine.load_state_dict({"epoch": start, "max_epochs": epochs, "epoch_length": 2})
    engine.run([{"image": torch.full((3,), value)}] * 2, max_epochs=epochs)
    return torch.stack(seen)


def test_every_step_has_draws_of_its_own():
    assert len(trace().unique()) == 3 * 2 * 3


def test_a_resumed_run_draws_what_an_uninterrupted_one_draws():
    assert torch.equal(trace(start=1), trace()[2:])


def test_draws_depend_on_the_seed_but_not_on_the_images():
    assert torch.equal(trace(value=0.0) + 2, trace(value=2.0))
    assert not torch.equal(trace(seed=1), trace(seed=2))


def test_processes_draw_apart(monkeypatch):
    first = trace()
    monkeypatch.setattr("common.handlers.batches.process_rank", lambda: 1)
    assert not torch.isin(trace(), first).any()


def test_the_batch_is_changed_before_a_step_begins():
    seen = []
    engine = Engine(lambda _engine, _batch: None)
    engine.state.device = torch.device("cpu")
    ChangeBatch(lambda batch, _draw: {"image": batch["image"] * 2}).attach(engine)
    engine.add_event_handler(Events.ITERATION_STARTED, lambda: seen.append(float(engine.state.batch["image"])))
    engine.run([{"image": torch.tensor(1.5)}])
    assert seen == [3.0]


@pytest.mark.parametrize("other", [(1, 1, 5), (0, 1, 6), (0, 2, 5), (0, 1), (0, 1, 5, 1)])
def test_generators_of_other_steps_differ(other):
    drawn = torch.rand(4, generator=step_generator(0, 1, 5))
    assert not torch.isin(torch.rand(4, generator=step_generator(*other)), drawn).any()


def test_several_changes_of_a_training_draw_apart():
    first = trace(stream=0)
    assert not torch.isin(trace(stream=1), first).any()
    assert torch.equal(trace(), first)
