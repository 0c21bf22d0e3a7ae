import math
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine
from monai.losses import DiceLoss
from monai.transforms import ScaleIntensityd
from torch import nn
from torch.testing import assert_close

from common.errors import ConfigError, MissingDataError, WeightsError
from common.handlers import (
    BestWeights,
    TrainingCheckpoint,
)
from common.handlers import checkpoint as checkpoint_module
from common.spectral import weights_digest


def validation(value):
    return SimpleNamespace(state=SimpleNamespace(metrics={"dice": value}, key_metric_name="dice"))


def test_only_better_validations_replace_the_weights(tmp_path):
    network = nn.Linear(1, 1)
    best = BestWeights(network, tmp_path)
    kept = []
    for step, value in enumerate([0.5, 0.4, 0.5, 0.7, 0.6]):
        nn.init.constant_(network.weight, step)
        best(validation(value))
        kept.append(float(torch.load(tmp_path / "model.pt", weights_only=True)["weight"]))
    assert kept == [0, 0, 0, 3, 3]
    digest = weights_digest(torch.load(tmp_path / "model.pt", weights_only=True))
    assert best.state_dict() == {"best": 0.7, "digest": digest}
    assert digest != weights_digest(network.state_dict())


def test_best_value_survives_a_restart(tmp_path):
    network = nn.Linear(1, 1)
    best = BestWeights(network, tmp_path)
    best.load_state_dict({"best": 0.7, "digest": "d"})
    assert best.state_dict() == {"best": 0.7, "digest": "d"}
    best(validation(0.6))
    assert not (tmp_path / "model.pt").exists()
    best(validation(0.8))
    assert best.best == 0.8
    assert (tmp_path / "model.pt").is_file()


def test_validation_without_a_metric_is_never_the_best(tmp_path):
    best = BestWeights(nn.Linear(1, 1), tmp_path)
    for value in (0.5, math.nan, 0.4):
        best(validation(value))
    assert best.best == 0.5


@pytest.mark.parametrize("wrap", [lambda network: network, nn.DataParallel])
def test_file_of_the_best_weights_passes_whatever_the_network_has_become(tmp_path, wrap):
    network = wrap(nn.Linear(1, 1))
    best = BestWeights(network, tmp_path)
    best(validation(0.5))
    best.require()
    nn.init.constant_(next(network.parameters()), 9.0)
    best(validation(0.4))
    best.require()
    resumed = BestWeights(wrap(nn.Linear(1, 1)), tmp_path)
    resumed.load_state_dict(best.state_dict())
    resumed.require()
    assert resumed.best == 0.5


@pytest.mark.parametrize("values", [[], [math.nan], [math.nan, math.nan]])
def test_run_that_wrote_no_weights_is_told_even_over_a_file_of_another(tmp_path, values):
    path = tmp_path / "model.pt"
    BestWeights(nn.Linear(1, 1), path.parent, name=path.name)(validation(0.5))
    best = BestWeights(nn.Linear(1, 1), path.parent, name=path.name)
    for value in values:
        best(validation(value))
    with pytest.raises(
        WeightsError, match=r"no validation gave a metric above 0, .*model\.pt is .*; check that validation labels"
    ):
        best.require()


def test_file_that_holds_other_weights_is_told(tmp_path):
    torch.manual_seed(0)
    best = BestWeights(nn.Linear(1, 1), tmp_path)
    best(validation(0.5))
    BestWeights(nn.Linear(1, 1), tmp_path)(validation(0.1))
    with pytest.raises(WeightsError, match=r"model\.pt holds other weights .*; resume with the same model_dir"):
        best.require()
    (tmp_path / "model.pt").unlink()
    with pytest.raises(MissingDataError, match=r"model\.pt"):
        best.require()


def test_processes_wait_for_the_weights_before_reading_them(tmp_path, monkeypatch):
    network, waited = nn.Linear(1, 1), []
    path = tmp_path / "model.pt"
    monkeypatch.setattr(checkpoint_module, "is_main_process", lambda: False)
    best = BestWeights(network, path.parent, name=path.name)
    best(validation(0.5))
    assert not path.exists()
    monkeypatch.setattr(
        checkpoint_module, "wait_for_all", lambda: waited.append(1) or torch.save(network.state_dict(), path)
    )
    best.require()
    assert waited == [1]


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("common.handlers.checkpoint.is_main_process", lambda: False)
    best = BestWeights(nn.Linear(1, 1), tmp_path)
    best(validation(0.5))
    asked = []
    member = SimpleNamespace(state_dict=lambda: asked.append(1))
    TrainingCheckpoint(str(tmp_path / "checkpoint.pt"), {"m": member})(Engine(lambda engine, batch: None))
    assert best.best == 0.5
    assert list(tmp_path.iterdir()) == []
    # Members that gather their state from all processes would wait for this one forever.
    assert asked == [1]


def train(path, max_epochs, *, resume=False, interval=1, members=(), **settings):
    """Trains a tiny network on batches that depend on the iteration alone; returns its members and engine."""
    torch.manual_seed(3 if resume else 0)
    network = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.5)

    def step(engine, batch):
        generator = torch.Generator().manual_seed(engine.state.iteration)
        optimizer.zero_grad()
        network(torch.randn(4, 2, generator=generator)).square().mean().backward()
        optimizer.step()

    engine = Engine(step)
    every = {"network": nn.DataParallel(network), "optimizer": optimizer} | dict(members)
    TrainingCheckpoint(str(path), every, resume=resume, interval=interval, **settings).attach(engine)
    engine.run(range(3), max_epochs=max_epochs)
    return network, optimizer, engine


def test_resumed_training_ends_as_an_uninterrupted_one(tmp_path):
    whole, whole_optimizer, _ = train(tmp_path / "whole.pt", 4)
    train(tmp_path / "checkpoint.pt", 2)
    network, optimizer, engine = train(tmp_path / "checkpoint.pt", 4, resume=True)
    assert (engine.state.epoch, engine.state.iteration) == (4, 12)
    assert_close(network.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert_close(optimizer.state_dict()["state"], whole_optimizer.state_dict()["state"], rtol=0, atol=0)


def test_checkpoint_is_written_every_interval(tmp_path):
    train(tmp_path / "checkpoint.pt", 5, interval=2)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert (checkpoint["progress"]["epoch"], checkpoint["progress"]["iteration"]) == (4, 12)


def test_resuming_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(MissingDataError, match=r"checkpoint\.pt"):
        train(tmp_path / "checkpoint.pt", 1, resume=True)


def test_checkpoint_of_other_inputs_is_not_gone_on_from(tmp_path, caplog):
    train(tmp_path / "checkpoint.pt", 1, inputs="other")
    _, _, engine = train(tmp_path / "checkpoint.pt", 2, resume=True, inputs="own")
    assert engine.state.iteration == 6, "started anew"
    assert "was written for other inputs than this run's: training starts from the beginning" in caplog.text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"learning_rate": 0.5}, r"learning_rate is 0\.5, but .*checkpoint\.pt was trained with 0\.002"),
        ({"window": [0, 10]}, r"window is \[0, 10\], but .* was trained with \[-1000, 1000\]"),
        ({"flag": 1}, r"flag is 1, but .* was trained with true"),
        ({"new": 0}, r"new is 0, but .* was trained with not set"),
        ({"train#data": [{"image": "a", "case": "b", "task": "T"}]}, r'train#data#?.* is \["T/b"\], but .*\["T/a"\]'),
        ({"loss": DiceLoss(sigmoid=False)}, r"loss#sigmoid is false, but .* was trained with true"),
        ({"train#0": ScaleIntensityd("image", 0.0, 2.0)}, r"train#0#scaler#maxv is 2\.0, but .* was trained with 1"),
        ({"train#net": nn.Sequential(nn.Linear(1, 1), nn.ELU())}, r'train#net#1#kind is "ELU", but .*with "ReLU"'),
        ({"learning_rate": None}, r"learning_rate is null, but .* was trained with 0\.002"),
    ],
    ids=lambda value: next(iter(value), None) if isinstance(value, dict) else None,
)
def test_resumed_run_must_have_the_settings_that_it_began_with(tmp_path, change, text):
    def config():
        network = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
        plain = {"learning_rate": 0.002, "window": (-1000, 1000), "flag": True, "device": "cpu", "output_dir": "a"}
        objects = {"loss": DiceLoss(sigmoid=True), "train#0": ScaleIntensityd("image"), "train#net": network}
        return plain | objects | {"train#data": [{"image": "x", "case": "a", "task": "T"}], "train#path": "nested"}

    train(tmp_path / "checkpoint.pt", 1, config=config())
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(ConfigError, match=text) as caught:
        train(tmp_path / "checkpoint.pt", 2, resume=True, config=config() | change)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    other = {"device": "cuda", "output_dir": "b", "train#data": [{"image": "moved", "case": "a", "task": "T"}]}
    _, _, engine = train(tmp_path / "checkpoint.pt", 2, resume=True, config=config() | other | {"train#path": "b"})
    assert engine.state.iteration == 6


def test_optimizer_and_schedule_are_compared_as_they_were_before_the_first_step(tmp_path):
    def config(weight_decay=0.0, length=4):
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, length)
        return {"optimizer": optimizer, "schedule": schedule}

    train(tmp_path / "checkpoint.pt", 1, config=config())
    used = config()
    used["optimizer"].step()
    train(tmp_path / "checkpoint.pt", 2, resume=True, config=config())
    with pytest.raises(ConfigError, match=r"optimizer#weight_decay is 0\.1, but .* was trained with 0\.0"):
        train(tmp_path / "checkpoint.pt", 3, resume=True, config=config(weight_decay=0.1))
    with pytest.raises(ConfigError, match=r"schedule#total_iters is 5, but .* was trained with 4"):
        train(tmp_path / "checkpoint.pt", 3, resume=True, config=config(length=5))


def test_checkpoint_without_settings_is_refused(tmp_path):
    torch.save({"progress": {"epoch": 1, "iteration": 3}}, tmp_path / "checkpoint.pt")
    with pytest.raises(ConfigError, match=r"checkpoint\.pt does not tell its settings .*; leave resume out"):
        train(tmp_path / "checkpoint.pt", 2, resume=True)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"network": nn.Linear(3, 1)}, "size mismatch for weight"),
        ({"network": nn.Bilinear(2, 2, 1)}, "size mismatch for weight"),
        ({"statistics": nn.Linear(1, 1)}, "'statistics'"),
        (
            {"optimizer": torch.optim.SGD(nn.Bilinear(2, 2, 1, bias=False).parameters(), lr=1.0, momentum=0.5)},
            "parameter group",
        ),
    ],
)
def test_checkpoint_that_does_not_fit_is_one_line(tmp_path, members, reason):
    train(tmp_path / "checkpoint.pt", 1)
    with pytest.raises(WeightsError, match=rf"checkpoint\.pt is of another network .*{reason}.*resume with") as caught:
        train(tmp_path / "checkpoint.pt", 2, resume=True, members=members)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("decline", ["polynomial", "plateau"])
def test_length_may_change_where_the_rate_does_not_follow_from_it(tmp_path, decline):
    train(tmp_path / "checkpoint.pt", 1, config={"max_epochs": 1, "decline": decline})
    longer = {"max_epochs": 2, "decline": decline}
    if decline == "plateau":
        train(tmp_path / "checkpoint.pt", 2, resume=True, config=longer)
        return
    with pytest.raises(ConfigError, match=r"max_epochs is 2, but .* was trained with 1"):
        train(tmp_path / "checkpoint.pt", 2, resume=True, config=longer)
