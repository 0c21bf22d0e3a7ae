"""The handlers of co-training: what the labeled part holds, the weights over time, and generators that start anew."""

import json
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from torch.testing import assert_close

from common.class_weights import distribution_weight, make_class_weight
from common.data.cases import class_name
from common.double_mix.census import ClassCensus, count_classes
from common.double_mix.history import ClassWeightHistory
from common.handlers import EpochSeeder


def labeled(*labels, **data):
    """Cases whose labels hold the given values."""
    return [
        {"label": f"nowhere/c{index}", "values": torch.tensor([label])} | data for index, label in enumerate(labels)
    ]


def read(case):
    return {"label": case["values"]}


class TestCensus:
    def test_voxels_of_all_labels_are_counted(self):
        cases = labeled([0, 0, 1, 2], [0, 1, 1, 1])
        assert count_classes(cases, read, 4).tolist() == [3, 4, 1, 0]

    def test_weights_start_from_the_labeled_set(self):
        weights = [make_class_weight(name, 3) for name in ("CDifW", "DisW")]
        census = ClassCensus(labeled([0] * 90 + [1] * 9 + [2]), read, weights)
        run_with(census)
        assert_close(weights[1].weight, distribution_weight(torch.tensor([90, 9, 1])))
        assert_close(weights[0].weight, torch.ones(3))

    def test_later_starts_leave_the_weights_alone(self):
        """Federated clients run one engine many times."""
        weight = make_class_weight("DisW", 2)
        census = ClassCensus(labeled([0, 0, 0, 1]), read, [weight, weight])
        run_with(census)
        weight.shares.copy_(torch.tensor([0.2, 0.8]))
        run_with(census)
        assert weight.shares.tolist() == pytest.approx([0.2, 0.8])

    def test_class_that_never_occurs_is_named(self, caplog):
        with caplog.at_level("WARNING"):
            run_with(ClassCensus(labeled([0, 1, 1], [0, 1, 3]), read, [make_class_weight("none", 5)] * 2))
        said = [record.getMessage() for record in caplog.records]
        assert [text.split(" never")[0] for text in said] == ["class 2", "class 4"]
        assert "in the labeled part (2 cases), so it cannot be learned" in said[0]

    def test_absent_background_is_no_loss(self, caplog):
        with caplog.at_level("WARNING"):
            run_with(ClassCensus(labeled([1, 1]), read, [make_class_weight("none", 2)] * 2))
        assert not caplog.records


def run_with(*handlers):
    engine = Engine(lambda engine, batch: {"loss": torch.tensor(1.0), "supervised": torch.tensor(float(batch))})
    for handler in handlers:
        handler.attach(engine)
    engine.run([1, 2, 3], max_epochs=2)
    return engine


@pytest.fixture
def case(tmp_path):
    (tmp_path / "labelsTr").mkdir()
    listing = {"labels": {"0": "background", "1": "liver", "7": "spleen"}}
    (tmp_path / "dataset.json").write_text(json.dumps(listing))
    return {"label": str(tmp_path / "labelsTr" / "a.nii.gz"), "task": "belly"}


class TestNames:
    def test_names_are_those_of_the_listing(self, case):
        assert class_name([case], 1) == "1 (liver)"
        assert class_name([case], 2) == "2"
        assert class_name([case], 2, {"belly": [1, 7]}) == "2 (spleen)"

    def test_case_without_a_listing_or_label_has_none(self, case, tmp_path):
        assert class_name([{"label": "/nowhere/x/y.nii.gz"}], 1) == "1"
        assert class_name([{"image": "x"}, case], 1) == "1 (liver)"


class TestWeightHistory:
    def test_weights_and_terms_become_metrics_and_a_picture(self, tmp_path, read_picture):
        weights = [make_class_weight("DisW", 2), make_class_weight("none", 2)]
        weights[0].start(torch.tensor([9, 1]))
        step = SimpleNamespace(terms=("supervised",), class_weights=weights, device="cpu")
        history = SimpleNamespace(epochs=[])
        handler = ClassWeightHistory(step, ["DisW", "none"], history, str(tmp_path))
        engine = Engine(lambda engine, batch: {"loss": torch.tensor(1.0), "supervised": torch.tensor(float(batch))})
        handler.attach(engine)
        engine.add_event_handler(
            Events.EPOCH_COMPLETED,
            lambda engine: history.epochs.append({"epoch": engine.state.epoch} | dict(engine.state.metrics)),
        )
        engine.run([1, 2, 6], max_epochs=2)
        weights = {"weight_a/0": 0.0, "weight_a/1": 1.0, "weight_b/0": 1.0, "weight_b/1": 1.0}
        assert history.epochs[0] == {"epoch": 1, "loss_supervised": 3.0} | weights
        assert len(history.epochs) == 2
        read_picture(tmp_path / "class_weights.png")

    def test_classes_of_the_picture_have_their_names(self, case, tmp_path, monkeypatch):
        drawn = []
        monkeypatch.setattr("common.double_mix.history.draw_curves", lambda groups, *_, **__: drawn.append(groups))
        history = SimpleNamespace(epochs=[{"epoch": 1, "weight_a/0": 0.5, "weight_a/1": 1.0}])
        step = SimpleNamespace(class_weights=["weight"])
        ClassWeightHistory(step, ["DisW"], history, str(tmp_path), cases=[case]).write(None)
        names = {"class 0 (background)": [(1, 0.5)], "class 1 (liver)": [(1, 1.0)]}
        assert drawn == [{"network A: DisW": names}]

    def test_method_without_class_weights_has_no_picture_of_them(self, tmp_path):
        step = SimpleNamespace(terms=("supervised",), class_weights=[], device="cpu")
        history = SimpleNamespace(epochs=[{"epoch": 1}])
        handler = ClassWeightHistory(step, ["none", "none"], history, str(tmp_path))
        assert run_with(handler).state.metrics == {"loss_supervised": 2.0}
        assert list(tmp_path.iterdir()) == []

    def test_only_the_main_process_draws(self, tmp_path, monkeypatch):
        monkeypatch.setattr("common.double_mix.history.is_main_process", lambda: False)
        history = SimpleNamespace(epochs=[{"epoch": 1, "weight_a/0": 1.0}])
        ClassWeightHistory(SimpleNamespace(), ["none", "none"], history, str(tmp_path)).write(None)
        assert list(tmp_path.iterdir()) == []


def test_generator_starts_every_epoch_from_seed_and_epoch_alone():
    """A run that is resumed in epoch 2 draws there what an uninterrupted one draws."""
    drawn = {}
    for start in (1, 2):
        generator = torch.Generator()
        loader = SimpleNamespace(set_epoch=lambda epoch: None)
        seeder = EpochSeeder(3, SimpleNamespace(set_random_state=lambda seed: None), generator)
        for epoch in range(start, 4):
            seeder(SimpleNamespace(state=SimpleNamespace(epoch=epoch), data_loader=loader))
            drawn.setdefault(epoch, []).append(torch.rand(4, generator=generator).tolist())
    assert drawn[2][0] == drawn[2][1]
    assert drawn[3][0] == drawn[3][1]
    assert drawn[1][0] != drawn[2][0]
