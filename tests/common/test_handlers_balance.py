"""How hard every term of a loss pulls: the numbers, where they go, and that they change nothing."""

import json
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from torch import nn
from torch.testing import assert_close

from common.engine.iteration import train_on_terms
from common.errors import ConfigError
from common.handlers import GradientBalance, TrainingHistory, gradient_norms

BATCHES = [torch.randn(4, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


class TwoHeads(nn.Module):
    """An encoder with dropout and batch norm, and two heads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Tanh())
        self.first, self.second = nn.Linear(5, 1), nn.Linear(5, 1)

    def forward(self, image):
        features = self.encoder(image)
        return self.first(features), self.second(features)


def losses(network, batch, *, weight=1.0):
    first, second = network(batch["image"])
    return {"segmentation": (first - 1).square().mean(), "side": weight * second.square().mean()}


class Board(list):
    def add_scalar(self, *scalar):
        self.append(scalar)


def fake_progress(**more):
    history = SimpleNamespace(gradient_norms=[])
    return SimpleNamespace(history=history, log=SimpleNamespace(board=Board()), **more)


def make_trainer(network, balance=None, *, epochs=2, step=losses):
    """MONAI's trainer of the two terms on three batches."""
    data = [{"image": batch} for batch in BATCHES]
    trainer = SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=epochs, train_data_loader=data, network=network, decollate=False,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), loss_function=None,
        iteration_update=lambda engine, batch: train_on_terms(engine, batch, step),
    )  # fmt: skip
    if balance is not None:
        balance.attach(trainer)
    return trainer


def train(network=None, *, epochs=2, **settings):
    """Trains with a balance on the encoder; returns trainer and what was recorded."""
    network, progress = network or TwoHeads(), fake_progress()
    trainer = make_trainer(network, GradientBalance(network.encoder.parameters(), progress, **settings), epochs=epochs)
    trainer.run()
    return trainer, progress


class TestNorms:
    def test_each_term_by_hand(self):
        shared, own = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor([1.0]))
        terms = {"first": shared.square().sum() / 2, "second": 2 * shared[0] + own.sum(), "apart": own.sum()}
        terms["constant"] = torch.tensor(1.0)
        norms = gradient_norms(terms, [shared])
        assert_close([float(norms[name]) for name in terms], [5.0, 2.0, 0.0, 0.0])
        assert shared.grad is None
        sum(terms.values()).backward()
        assert_close(shared.grad, torch.tensor([5.0, 4.0]))

    def test_each_term_by_a_backward_pass_of_its_own(self):
        network = TwoHeads().eval()
        norms = gradient_norms(losses(network, {"image": BATCHES[0]}), network.encoder.parameters())
        for name in norms:
            network.zero_grad()
            losses(network, {"image": BATCHES[0]})[name].backward()
            gradient = torch.cat([parameter.grad.flatten() for parameter in network.encoder.parameters()])
            assert_close(norms[name], gradient.norm())

    def test_frozen_weights_feel_nothing(self):
        network = TwoHeads()
        network.encoder.requires_grad_(False)
        norms = gradient_norms(losses(network, {"image": BATCHES[0]}), network.encoder.parameters())
        assert [float(norm) for norm in norms.values()] == [0.0, 0.0]

    def test_mixed_precision_costs_no_more_than_its_digits(self):
        network = TwoHeads().eval()
        exact = gradient_norms(losses(network, {"image": BATCHES[0]}), network.encoder.parameters())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = gradient_norms(losses(network, {"image": BATCHES[0]}), network.encoder.parameters())
        assert rough["side"].dtype == torch.float32
        assert_close(rough, exact, rtol=0.05, atol=1e-3)

    def test_losses_of_images_with_metadata(self):
        weight = nn.Parameter(torch.tensor([2.0]))
        term = (MetaTensor(torch.tensor([3.0])) * weight).sum()
        assert isinstance(term, MetaTensor)
        norm = gradient_norms({"only": term}, [weight])["only"]
        assert (type(norm), float(norm)) == (torch.Tensor, 3.0)


@pytest.mark.parametrize(
    ("interval", "iterations"), [(0, [1]), (1, [1, 2, 3, 4, 5, 6]), (4, [1, 4]), (3, [1, 3, 6]), (500, [1])]
)
def test_first_iteration_and_every_so_many_are_measured(monkeypatch, interval, iterations):
    passes = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: passes.append(1) or grad(*args, **kwargs))
    _, progress = train(balance_interval=interval)
    assert [norms["iteration"] for norms in progress.history.gradient_norms] == iterations
    assert len(passes) == 2 * len(iterations), "one pass for each term, and none in between"


def test_norms_are_recorded_where_curves_are_read(caplog):
    network = TwoHeads()
    network.encoder[2].p = 0.0
    expected = gradient_norms(losses(network, {"image": BATCHES[0]}), network.encoder.parameters())
    values = {name: float(norm) for name, norm in expected.items()}
    fresh = TwoHeads()
    fresh.encoder[2].p = 0.0
    with caplog.at_level("INFO", "common.handlers.balance"):
        _, progress = train(fresh, balance_interval=0)
    assert progress.history.gradient_norms == [pytest.approx({"iteration": 1} | values)]
    assert progress.log.board == [
        ("gradient_norm/segmentation", pytest.approx(values["segmentation"]), 1),
        ("gradient_norm/side", pytest.approx(values["side"]), 1),
    ]
    line = "iteration 1: gradient norms on the shared weights: segmentation {segmentation:.3g}, side {side:.3g}"
    assert caplog.messages == [line.format(**values)]


def balance_of(*ratios):
    """Records measurements in which a side task has so many times the gradient of the segmentation."""
    weight, progress = nn.Parameter(torch.tensor(1.0)), fake_progress()
    balance = GradientBalance([weight], progress, balance_interval=1)
    for iteration, ratio in enumerate(ratios, start=1):
        terms = {"segmentation": 0.5 * weight, "side": 0.5 * ratio * weight, "other": weight / 2}
        balance(SimpleNamespace(state=SimpleNamespace(iteration=iteration, terms=terms)))
    return progress


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_term_that_outweighs_the_segmentation_tenfold_is_named_once(caplog):
    balance_of(9.0, 9.99, 1.0)
    assert warnings_of(caplog) == []
    balance_of(1.0, 10.0, 40.0)
    assert warnings_of(caplog) == [
        "iteration 2: the gradient of side is 10 times that of segmentation: training follows it, not the "
        "segmentation; lower its weight"
    ]


def test_segmentation_that_is_not_learned_yet_is_not_outweighed(caplog):
    weight = nn.Parameter(torch.tensor(1.0))
    terms = {"segmentation": torch.tensor(0.0), "side": 5 * weight}
    progress = fake_progress()
    GradientBalance([weight], progress)(SimpleNamespace(state=SimpleNamespace(iteration=1, terms=terms)))
    assert progress.history.gradient_norms == [{"iteration": 1, "segmentation": 0.0, "side": 5.0}]
    assert warnings_of(caplog) == []


def test_only_the_main_process_writes(caplog, monkeypatch):
    monkeypatch.setattr("common.handlers.balance.is_main_process", lambda: False)
    caplog.set_level("INFO")
    progress = balance_of(100.0)
    assert (progress.log.board, caplog.messages) == ([], [])


@pytest.mark.parametrize("terms", [{}, {"segmentation": torch.tensor(1.0, requires_grad=True)}])
def test_single_term_has_nothing_to_compare(terms, caplog):
    caplog.set_level("INFO")
    progress = fake_progress()
    balance = GradientBalance([nn.Parameter(torch.ones(1))], progress)
    balance(SimpleNamespace(state=SimpleNamespace(iteration=1, terms=terms)))
    balance(SimpleNamespace(state=SimpleNamespace(iteration=1), loss_function=nn.MSELoss()))
    assert (progress.history.gradient_norms, progress.log.board, caplog.messages) == ([], [], [])


def test_interval_below_zero_is_refused():
    with pytest.raises(ConfigError, match="balance_interval is -1; accepted is a number of iterations, or 0"):
        GradientBalance([], fake_progress(), balance_interval=-1)


class TestTraining:
    def test_is_the_same_with_and_without(self):
        """Weights, statistics of batch norms, momentum and losses, bit by bit; dropout draws in every iteration."""
        results = []
        for balanced in (False, True):
            network = TwoHeads()  # seeds what dropout draws
            balance = GradientBalance(network.encoder.parameters(), fake_progress(), balance_interval=1)
            trainer = make_trainer(network, balance if balanced else None)
            trainer.run()
            results.append([network.state_dict(), trainer.optimizer.state_dict(), trainer.state.output])
        assert_close(results[1], results[0], rtol=0, atol=0)

    def test_graph_does_not_outlive_the_step(self):
        trainer, _ = train()
        assert trainer.state.terms == {}
        assert not any(value.requires_grad for value in trainer.state.output.values())

    def test_history_goes_on_where_it_was_and_warns_no_second_time(self, caplog):
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        history = TrainingHistory("nowhere", Engine(lambda *_: None), optimizer)
        history.gradient_norms.append({"iteration": 1, "segmentation": 1.0, "side": 50.0})
        resumed = TrainingHistory("nowhere", Engine(lambda *_: None), optimizer)
        resumed.load_state_dict(history.state_dict())
        weight, progress = nn.Parameter(torch.tensor(1.0)), fake_progress()
        progress.history = resumed
        terms = {"segmentation": weight, "side": 20 * weight}
        balance = GradientBalance([weight], progress, balance_interval=2)
        balance(SimpleNamespace(state=SimpleNamespace(iteration=2, terms=terms)))
        assert [norms["side"] for norms in resumed.gradient_norms] == [50.0, 20.0]
        assert warnings_of(caplog) == []


class TestDataParallel:
    """Wrapped networks average gradients over processes while the backward pass of the sum runs, and only then."""

    @pytest.fixture
    def group(self):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        yield
        dist.destroy_process_group()

    @pytest.mark.parametrize("find_unused_parameters", [False, True])
    def test_measuring_averages_nothing_over_processes(self, group, find_unused_parameters):
        network, alone, averaged = TwoHeads(), TwoHeads(), []
        wrapped = nn.parallel.DistributedDataParallel(network, find_unused_parameters=find_unused_parameters)

        def count(_state, bucket):
            averaged.append(True)
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        wrapped.register_comm_hook(None, count)
        terms, expected = ({}, {})
        for item, found in ((wrapped, terms), (alone, expected)):
            torch.manual_seed(3)
            found |= losses(item, {"image": BATCHES[0]})
        norms = gradient_norms(terms, network.encoder.parameters())
        assert averaged == []
        assert all(parameter.grad is None for parameter in network.parameters())
        assert_close(norms, gradient_norms(expected, alone.encoder.parameters()))
        for found in (terms, expected):
            sum(found.values()).backward()
        assert averaged
        for one, other in zip(network.parameters(), alone.parameters(), strict=True):
            assert_close(one.grad, other.grad, rtol=0, atol=0)


def test_history_writes_and_draws_the_norms(tmp_path, read_picture):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    sizes = []
    for norms in ([], [{"iteration": 1, "segmentation": 0.5, "side": 0.0}, {"iteration": 2, "segmentation": 2.0}]):
        engines = [Engine(lambda engine, batch: {"loss": torch.tensor(1.0)}) for _ in range(2)]
        history = TrainingHistory(str(tmp_path), engines[1], optimizer)
        history.attach(engines[0])
        history.gradient_norms += norms
        engines[0].run([0])
        written = json.loads((tmp_path / "metrics.json").read_text())
        assert written.get("gradient_norms", []) == norms
        assert ("gradient_norms" in written) == bool(norms)
        sizes.append(read_picture(tmp_path / "training.png"))
    assert sizes[1].shape[1] == pytest.approx(1.5 * sizes[0].shape[1], rel=0.01), "a third panel beside two"
