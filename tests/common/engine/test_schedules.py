import math

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from common.engine.optimizers import make_optimizer
from common.engine.schedules import (
    IterationSchedule,
    cosine_decline,
    make_schedule,
    polynomial_decline,
    step_decline,
)
from common.errors import ConfigError
from common.handlers import PlateauSchedule


def test_declines_by_hand():
    assert [polynomial_decline(share, schedule_power=2) for share in (0, 0.5, 1)] == [1, 0.25, 0]
    assert polynomial_decline(1.0, schedule_power=0) == 1
    assert [cosine_decline(share) for share in (0, 1)] == [1, 0]
    assert cosine_decline(0.25) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert [step_decline(share, schedule_share=0.5, schedule_factor=0.2) for share in (0.49, 0.5, 1)] == [1, 0.2, 0.2]


def optimizer(rate=0.4):
    return make_optimizer("sgd", [nn.Parameter(torch.zeros(1))], rate)


def rates_of(schedule, *, epochs, length, stop_after=None, start=(0, 0)):
    """Rates of the iterations of a training, perhaps stopped after so many, or going on from an epoch."""
    seen = []
    engine = Engine(lambda engine, batch: seen.append(schedule.optimizer.param_groups[0]["lr"]))
    schedule.attach(engine)

    def begin(engine):
        engine.state.epoch, engine.state.iteration = start

    engine.add_event_handler(Events.STARTED, begin)
    if stop_after:
        engine.add_event_handler(Events.EPOCH_COMPLETED(once=stop_after), lambda engine: engine.terminate())
    engine.run(range(length), max_epochs=epochs, epoch_length=length)
    return seen


def test_rate_rises_and_declines_over_the_whole_training():
    schedule = make_schedule(optimizer(), "polynomial", warm_up=0.25, schedule_power=1)
    expected = [0.2, 0.4, *(0.4 * (1 - n / 6) for n in range(6))]
    assert rates_of(schedule, epochs=4, length=2) == pytest.approx(expected)


def test_resumed_training_has_the_rates_of_the_uninterrupted_one():
    whole = rates_of(make_schedule(optimizer(), "cosine", warm_up=0.2), epochs=5, length=3)
    first = make_schedule(optimizer(), "cosine", warm_up=0.2)
    head = rates_of(first, epochs=5, length=3, stop_after=2)
    second = make_schedule(optimizer(rate=7.0), "cosine", warm_up=0.2)
    second.load_state_dict(first.state_dict())
    assert head + rates_of(second, epochs=5, length=3, start=(2, 6)) == pytest.approx(whole)


def test_another_training_of_another_length_has_its_own_course():
    schedule = make_schedule(optimizer(), "step", schedule_share=0.5, schedule_factor=0.1)
    assert rates_of(schedule, epochs=1, length=4) == pytest.approx([0.4, 0.4, 0.04, 0.04])
    assert rates_of(schedule, epochs=1, length=2) == pytest.approx([0.4, 0.04])


def test_every_group_keeps_its_share():
    groups = [{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1}]
    schedule = make_schedule(make_optimizer("adam", groups, 1.0), "polynomial", schedule_power=1)
    rates_of(schedule, epochs=1, length=4)
    assert [group["lr"] for group in schedule.optimizer.param_groups] == pytest.approx([0.25, 0.025])


def test_settings_of_other_declines_do_not_count():
    settings = {"schedule_power": 0.5, "schedule_share": 0.2, "schedule_factor": 0.3, "schedule_interval": 5}
    chosen = {name: make_schedule(optimizer(), name, **settings) for name in ("polynomial", "cosine", "step")}
    assert chosen["polynomial"].factor(3, 4) == pytest.approx(0.5)
    assert chosen["cosine"].factor(2, 4) == pytest.approx(0.5)
    assert chosen["step"].factor(1, 4) == 0.3
    plateau = make_schedule(optimizer(), "plateau", val_interval=3, **settings)
    assert isinstance(plateau, PlateauSchedule)
    assert (plateau.schedule_interval, plateau.val_interval, plateau.scheduler.factor) == (5, 3, 0.3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decline": "linear"}, "decline is 'linear'; accepted are polynomial, cosine, step, plateau"),
        ({"warm_up": 1.0}, "warm_up is 1.0; accepted are shares"),
        ({"decline": "plateau", "warm_up": 0.1}, "warm_up is 0.1 with decline 'plateau'"),
        ({"schedule_power": -1}, "schedule_power is -1"),
        ({"schedule_share": 2}, "schedule_share is 2"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_schedule(optimizer(), **settings)


def test_rise_needs_a_share():
    with pytest.raises(ConfigError, match=r"warm_up is -0\.1"):
        IterationSchedule(optimizer(), cosine_decline, warm_up=-0.1)


def test_rounds_of_a_federated_training_share_one_course():
    """A client sets the length of its engine in every round."""
    schedule = make_schedule(optimizer(), "polynomial", schedule_power=1)
    seen = []
    engine = Engine(lambda engine, batch: seen.append(schedule.optimizer.param_groups[0]["lr"]))
    engine.planned_epochs = 4
    schedule.attach(engine)
    for epochs in (2, 4):
        engine.run(range(1), max_epochs=epochs, epoch_length=1)
    assert seen == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_step_falls_late_unless_told():
    schedule = make_schedule(optimizer(), "step")
    assert [schedule.factor(done, 10) for done in (6, 7)] == [1.0, 0.1]
