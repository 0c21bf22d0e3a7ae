"""Factories and classes that put parts together, as every bundle needs them."""

import json

import pytest
import torch
from ignite.engine import Engine
from monai.data import Dataset, MetaTensor
from monai.metrics import CumulativeIterationMetric
from torch import nn
from torch.testing import assert_close

from common.denoising import LoadSliced, SliceDataset, SliceLoading, same_slices
from common.engine.training import Trainer
from common.errors import ConfigError
from common.handlers import BestWeights, TrainingProgress
from common.metrics.validation import mean_dice, mean_metric, soft_dice
from common.runtime.weights import save_atomically
from common.sampling import PatchSampler, ShardSampler, TaskSampler, patch_loader, task_loader, validation_loader
from common.spectral import SpectralInferer
from common.transforms import CaseLoading, KeepTensorsd, logits_and_classes, sigmoid_and_channels, softmax_and_classes

LOGITS = torch.tensor([[[2.0, -1.0]], [[0.0, 3.0]]])


def kinds(transforms):
    return [type(transform).__name__ for transform in transforms]


class TestLoading:
    def test_lists_load_before_they_check(self):
        loading = CaseLoading(2, 3, max_voxels=50, decode_masks=True)
        assert kinds(loading.image()) == ["LoadScand", "CheckImaged"]
        assert kinds(loading.label()) == ["LoadScand"]
        assert kinds(loading.labeled()) == ["LoadScand", "DecodeMaskd", "CheckImaged", "CheckLabeld"]
        assert kinds(CaseLoading(2, 3).labeled()) == ["LoadScand", "CheckImaged", "CheckLabeld"]

    def test_settings_reach_the_transforms(self):
        load, check = CaseLoading(2, 3, max_voxels=50).image()
        assert (load.keys, load.max_voxels, load.allow_missing_keys) == (("image",), 50, False)
        assert (check.spatial_dims, check.in_channels) == (2, 3)
        load = CaseLoading(2, 3).labeled(optional=True)[0]
        assert (load.keys, load.allow_missing_keys) == (("image", "label"), True)

    def test_slices_are_loaded_by_their_own_transform(self):
        assert isinstance(SliceLoading(2, 3).image()[0], LoadSliced)


def test_only_named_tensors_are_kept_and_plain():
    kept = KeepTensorsd(["image", "label"])(
        {"image": MetaTensor(torch.ones(1, 2)), "case": "a", "label": torch.zeros(1)}
    )
    assert list(kept) == ["image", "label"]
    assert all(type(value) is torch.Tensor for value in kept.values())
    assert list(KeepTensorsd(["image", "label"])({"image": torch.ones(1)})) == ["image"]


def test_outputs_are_classes_beside_what_they_come_from():
    found = softmax_and_classes()({"pred": LOGITS})
    assert_close(torch.as_tensor(found["probability"]), LOGITS.softmax(0))
    assert found["pred"].tolist() == [[[0, 1]]]
    found = sigmoid_and_channels()({"pred": LOGITS})
    assert_close(torch.as_tensor(found["probability"]), LOGITS.sigmoid())
    assert torch.equal(torch.as_tensor(found["pred"]), (LOGITS >= 0).float())
    found = logits_and_classes()({"pred": LOGITS})
    assert_close(torch.as_tensor(found["logits"]), LOGITS)
    assert found["pred"].tolist() == [[[0, 1]]]


def test_inferer_without_signature_gives_the_same_logits():
    network, image = nn.Conv2d(1, 2, 3, padding=1), torch.randn(1, 1, 8, 8)
    inferer = SpectralInferer((8, 8), [""], overlap=0.5)
    alone = inferer.without_signature()
    assert inferer.with_signature
    assert (alone.overlap, alone.roi_size) == (0.5, (8, 8))
    assert_close(alone(image, network), network(image))


class TestLoaders:
    cases = Dataset([{"task": name, "image": torch.ones(1, size)} for name, size in (("a", 2), ("b", 3), ("b", 3))])

    def test_tasks_are_drawn_and_padded_alike(self):
        loader = task_loader(self.cases, batch_size=4, seed=3, samples_per_epoch=40, uniform_sampling=True)
        sampler = TaskSampler(self.cases.data, seed=3, samples_per_epoch=40, uniform_sampling=True)
        assert list(loader.sampler) == list(sampler)
        assert {batch["image"].shape for batch in loader} == {(4, 1, 3)}

    def test_patches_are_drawn(self):
        data = Dataset(range(5))
        data.num_original = 3
        loader = patch_loader(data, batch_size=2, seed=3, samples_per_epoch=5)
        assert list(loader.sampler) == list(PatchSampler(data, seed=3, samples_per_epoch=5))

    def test_validation_is_in_order(self):
        loader = validation_loader(self.cases)
        assert isinstance(loader.sampler, ShardSampler)
        assert [batch["task"][0] for batch in loader] == ["a", "b", "b"]


class Doubled(CumulativeIterationMetric):
    """Twice the prediction."""

    def _compute_tensor(self, y_pred, y=None):
        return 2 * y_pred

    def aggregate(self):
        return self.get_buffer().mean()


def run_metric(metric, **output):
    """The value of a metric after an iteration of one case."""
    engine = Engine(lambda _engine, _batch: [output])
    metric.attach(engine, "found")
    return engine.run([0]).metrics["found"]


class TestMetrics:
    label = torch.tensor([[[0, 1]]])

    def test_mean_is_of_the_named_output(self):
        found = run_metric(mean_metric(Doubled(), "logits"), logits=torch.tensor([[3.0]]), label=torch.zeros(1, 1))
        assert found == 6

    def test_perfect_predictions_have_a_dice_of_one(self):
        assert run_metric(soft_dice(), probability=torch.tensor([[[1.0, 0]], [[0, 1]]]), label=self.label) == 1
        assert run_metric(mean_dice(2), pred=self.label, label=self.label) == 1

    def test_background_counts_where_asked(self):
        channels = {"pred": torch.tensor([[[1.0, 1]], [[0, 1]]]), "label": torch.tensor([[[1.0, 0]], [[0, 1]]])}
        assert run_metric(mean_dice(include_background=True), **channels) == pytest.approx((2 / 3 + 1) / 2)


def test_same_slices_are_prepared_alike_without_random_changes():
    first = SliceDataset([], len, max, transform=min, spatial_dims=3, percentile=50.0, cache_dir="cache")
    second = same_slices(first, [{"image": "a"}])
    assert second.data == [{"image": "a"}]
    assert second.transform({"image": 1}) == {"image": 1}
    assert (second.load, second.prepare, second.slicing, second.cache_dir) == (len, max, first.slicing, "cache")


class TestTraining:
    @pytest.fixture
    def train(self, tmp_path):
        """Trains for two epochs; gives the trainer."""

        def run(*layers, amp=None, **settings):
            torch.manual_seed(0)
            network = nn.Sequential(nn.Linear(2, 1), *layers) if layers else nn.Linear(2, 1)
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
            schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1], 0.5)
            evaluator = Engine(lambda _engine, _batch: None)
            best = BestWeights(network, tmp_path / "models", name="best.pt")
            progress = TrainingProgress(str(tmp_path), evaluator, network, optimizer, schedule, best, **settings)
            data = [{"image": torch.ones(2, 2), "label": torch.zeros(2, 1)}] * 3
            trainer = Trainer(
                "cpu", max_epochs=2, train_data_loader=data, network=network, optimizer=optimizer,
                loss_function=nn.MSELoss(), progress=progress, amp=amp,
            )  # fmt: skip
            trainer.run()
            return trainer

        return run

    def test_patches_that_are_too_small_end_it_with_an_error_of_ours(self, train):
        # The pooling leaves the normalization with one value.
        with pytest.raises(ConfigError, match="raise roi_size"):
            train(nn.Unflatten(0, (1, 2)), nn.MaxPool2d((2, 1)), nn.Flatten(1), nn.BatchNorm1d(1))

    def test_every_epoch_is_recorded_before_the_rate_falls(self, train, tmp_path):
        train()
        report = json.loads((tmp_path / "metrics.json").read_text())
        assert [epoch["learning_rate"] for epoch in report["epochs"]] == [0.1, 0.05]
        assert (tmp_path / "checkpoint.pt").is_file()
        assert list(tmp_path.glob("events*"))

    def test_best_weights_lie_in_their_folder(self, train, tmp_path):
        assert train().progress.best.path == str(tmp_path / "models" / "best.pt")

    def test_it_goes_on_where_it_stopped(self, train):
        whole = train()
        assert train(resume=True).state.iteration == whole.state.iteration == 6

    def test_given_weights_are_loaded_first(self, train, tmp_path):
        zeros = {"weight": torch.zeros(1, 2), "bias": torch.zeros(1)}
        save_atomically(zeros, tmp_path / "first.pt")
        trainer = train(initial_weights=str(tmp_path / "first.pt"))
        # All labels are zero: nothing is left to learn.
        assert_close(trainer.network.state_dict(), zeros)
        assert trainer.given_weights == [str(tmp_path / "first.pt")]

    def test_further_members_are_part_of_the_checkpoint(self, train):
        more = nn.Linear(1, 1)
        assert "more" in train(more={"more": more}).progress.checkpoint.states()

    def test_nothing_is_decollated_and_a_cpu_has_no_mixed_precision(self, train):
        trainer = train()
        assert (trainer.autocasts, trainer.optim_set_to_none) == (False, True)
        assert isinstance(trainer.state.output, dict)

    def test_a_cpu_computes_in_bfloat16_where_it_is_told_to(self, train):
        exact, coarse = train(), train(amp=True)
        assert [engine.state.output["pred"].dtype for engine in (exact, coarse)] == [torch.float32, torch.bfloat16]
        assert_close(coarse.network.state_dict(), exact.network.state_dict(), rtol=0.02, atol=0.02)
