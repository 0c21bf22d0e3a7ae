import csv
import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.handlers import CheckpointLoader, MeanDice, ValidationHandler, from_engine
from monai.transforms import AsDiscreted
from monai.utils import set_determinism
from torch import nn
from torch.testing import assert_close

from common.engine.course import Course
from common.engine.training import Trainer
from common.errors import ConfigError, MissingDataError, NotEnoughCasesError
from common.handlers import BestWeights, EpochSeeder, TrainingProgress
from common.ood_mining import CandidateMiner, CombinedDiceLoss, PatchDataset, StagedTraining, prepare_patches
from common.ood_mining.mine import read_selection
from common.sampling import PatchSampler

PATCH, SIZE = 8, 16


@pytest.fixture
def cases(tmp_path):
    """Four pictures: a bright square to be found, and two bright spots outside of it that look like it."""
    made = []
    for number in range(4):
        rng = np.random.default_rng(number)
        label = np.zeros((1, SIZE, SIZE), dtype=np.uint8)
        label[0, 3 : 9 + number, 4:11] = 1
        bright = label.astype(np.float32)
        bright[0, 13:15, 1:3] = bright[0, 1:2, 13:15] = 0.7
        image = rng.normal(100 + 100 * bright, 10).astype(np.float32)
        np.savez(tmp_path / f"{number}.npz", image=image, label=label)
        made.append({"image": str(tmp_path / f"{number}.npz"), "case": f"case_{number}"})
    return made


def load(case):
    with np.load(case["image"]) as arrays:
        return case | {key: torch.from_numpy(arrays[key]) for key in ("image", "label")}


def scale(data):
    return data | {"image": data["image"] / 100 - 1}


@pytest.fixture
def make(cases, tmp_path, caplog):
    """Makes a training of two epochs on the first three cases; ``make(ood_fraction=...)``."""
    caplog.set_level(logging.INFO)

    def build(
        output="out", *, baseline_dir=None, epochs=2, resume=False, seed=0, handlers=(), network=None, **settings
    ):
        set_determinism(seed)
        folder = tmp_path / output
        network = network or nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)
        )
        dataset = PatchDataset(settings.pop("cases", cases[:3]), load, [scale], roi_size=[PATCH] * 2, seed=seed)
        optimizer = torch.optim.Adam(network.parameters(), settings.pop("rate", 0.05))
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1], 0.5)
        sampler = PatchSampler(dataset, seed=seed)
        best = BestWeights(network, folder / "models")
        evaluator = SupervisedEvaluator(
            device="cpu", network=network, val_data_loader=DataLoader([scale(load(case)) for case in cases[3:]]),
            postprocessing=lambda data: AsDiscreted(["pred", "label"], argmax=[True, False], to_onehot=2)(data),
            key_val_metric={"val_mean_dice": MeanDice(False, output_transform=from_engine(["pred", "label"]))},
        )  # fmt: skip
        best.attach(evaluator)
        progress = TrainingProgress(str(folder), evaluator, network, optimizer, schedule, best, resume=resume)
        seeder = EpochSeeder(seed, SimpleNamespace(set_random_state=lambda seed: None))
        every = [*handlers, seeder, ValidationHandler(settings.pop("val_interval", 1), evaluator)]
        trainer = Trainer(
            "cpu", max_epochs=epochs, network=network, optimizer=optimizer,
            train_data_loader=DataLoader(dataset, batch_size=2, sampler=sampler), loss_function=CombinedDiceLoss(),
            prepare_batch=prepare_patches, train_handlers=every, progress=progress,
        )  # fmt: skip
        chosen = {
            key: settings.pop(key) for key in ("ood_fraction", "target_ratio", "exact_fraction") if key in settings
        }
        miner = CandidateMiner(dataset, network, "cpu", seed=seed, **chosen)
        training = StagedTraining(
            Course(trainer), miner, cases[3:],
            baseline_dir=str(tmp_path / baseline_dir) if baseline_dir else None, **settings,
        )  # fmt: skip
        training.folder = folder
        return training

    yield build
    set_determinism(None)


def weights(path):
    return torch.load(path, weights_only=True)


def stages(caplog):
    """What the log says of stages: ``name: starts`` or ``name: skipped``."""
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("stage ")]
    found = [line.removeprefix("stage ").split(",")[0].split(" (")[0] for line in lines if ": done" not in line]
    caplog.clear()
    return found


STARTED = [f"{name}: starts" for name in ("baseline", "mine", "select", "combine")]
SKIPPED = [f"{name}: skipped" for name in ("baseline", "mine", "select", "combine")]


def table(training):
    with open(training.baseline_dir / "ood_candidates.csv", newline="") as file:
        return list(csv.DictReader(file))


class TestMethod:
    def test_every_stage_writes_what_the_next_one_reads(self, make, caplog):
        training = make()
        training.run()
        assert stages(caplog) == STARTED
        files = {path.relative_to(training.folder).as_posix() for path in training.folder.rglob("*") if path.is_file()}
        own = {"metrics.json", "training.png", "checkpoint.pt"}
        assert files >= own | {f"baseline/{name}" for name in own} | {"baseline/model.pt", "models/model.pt"}
        assert files >= {"ood_candidates.csv", "ood_selected.json", "proportion.json", "ood_candidates.png"}
        assert not [name for name in files if name.split("/")[-1].startswith(".")]

    def test_candidates_are_scored_by_the_best_weights_of_the_baseline(self, make):
        training = make()
        training.run()
        network, data = training.miner.network, training.dataset
        network.load_state_dict(weights(training.baseline_file))
        network.eval()
        rows = table(training)
        assert sorted(int(row["index"]) for row in rows) == list(range(data.num_original, len(data)))
        scores = [float(row["score"]) for row in rows]
        assert scores == sorted(scores, reverse=True)
        for row in rows:
            index = int(row["index"])
            with torch.no_grad():
                found = network(data[index]["image"][None])[0].argmax(dim=0) > 0
            assert float(row["score"]) == pytest.approx(float(found.double().mean()), abs=1e-12)
            assert (row["kept"] == "True") == bool(found.any())
            inside = float((found & (data.label_at(index)[0] > 0)).sum() / found.sum()) if found.any() else 0
            assert float(row["in_removed"]) == pytest.approx(inside, abs=1e-6)
            patch = data.patch(index)
            assert (row["case"], row["start"], row["kind"]) == (patch.case, " ".join(map(str, patch.start)), "emptied")
            share = float((data.label_at(index) > 0).double().mean())
            assert float(row["foreground"]) == pytest.approx(share)

    def test_proportion_holds_counts_and_choice(self, make):
        training = make()
        training.run()
        report = json.loads((training.folder / "proportion.json").read_text())
        counts, kept = training.dataset.counts, [row for row in table(training) if row["kept"] == "True"]
        assert (report["num_positive"], report["num_negative"]) == (counts.positive, counts.negative)
        assert report["num_ood"] == len(kept) == report["kept"]["confusing"] > 0
        found = [float(row["score"]) for row in kept]
        holes = sum(score * float(row["in_removed"]) for score, row in zip(found, kept, strict=True)) / sum(found)
        assert report["kept"]["confusion_in_removed_foreground"] == pytest.approx(holes)
        for line in report["percentages"]:
            assert line["patches"] == round(line["fraction"] * len(kept))
            assert line["pnr"] == pytest.approx(counts.positive / (counts.negative + line["patches"]))
        best = min(report["percentages"], key=lambda line: abs(line["pnr"] - 0.65))
        assert report["pnr_selected"] == pytest.approx(best["pnr"], abs=0.05)
        selected = json.loads((training.folder / "ood_selected.json").read_text())["patches"]
        assert len(selected) == report["num_selected"]
        chosen = {int(row["index"]) for row in kept}
        assert {patch["index"] for patch in selected} <= chosen

    def test_combined_training_sees_known_and_selected_patches(self, make):
        training, seen = make(ood_fraction=1.0), []
        choose = training.course.trainer.data_loader.sampler.choose
        training.course.trainer.data_loader.sampler.choose = lambda indices: (
            seen.append(list(indices)),
            choose(indices),
        )
        training.run()
        selected = read_selection(training.folder / "ood_selected.json")
        known = list(range(training.dataset.num_original))
        assert seen == [known, known + selected]
        assert selected

    def test_only_ood_sees_the_selected_alone_and_keeps_its_weights(self, make):
        training = make(ood_fraction=1.0, only_ood=True)
        training.run()
        assert list(training.course.trainer.data_loader.sampler.chosen) == read_selection(
            training.folder / "ood_selected.json"
        )
        assert weights(training.weights_file)

    def test_both_trainings_start_from_the_same_weights(self, make):
        """Started anew, the training of the baseline repeats itself, bit for bit."""
        training = make()
        start = training.course.states()
        training.run()
        again = training.folder / "again"
        training.course.restart(start, again, again / "model.pt")
        training.course.run({}, range(training.dataset.num_original), resume=False)
        assert_close(weights(again / "model.pt"), weights(training.baseline_file), rtol=0, atol=0)
        first, second = (
            json.loads((folder / "metrics.json").read_text()) for folder in (training.folder / "baseline", again)
        )
        assert first == second
        assert [epoch["learning_rate"] for epoch in first["epochs"]] == [0.05, 0.05 * 0.5]

    def test_without_any_selected_patch_the_baseline_is_the_result(self, make, caplog):
        training = make(ood_fraction=0.0)
        training.run()
        assert "no patch is selected: the baseline is the result" in caplog.text
        assert training.weights_file.read_bytes() == training.baseline_file.read_bytes()
        assert (training.folder / "metrics.json").read_text() == (
            training.folder / "baseline" / "metrics.json"
        ).read_text()

    def test_baseline_that_confuses_nothing_goes_on_with_the_known_patches(self, make, caplog):
        training = make(rate=0.0, network=bright_finder())
        training.run()
        assert "the baseline confuses nothing" in caplog.text
        assert json.loads((training.folder / "ood_selected.json").read_text())["patches"] == []
        assert json.loads((training.folder / "proportion.json").read_text())["fraction"] == 0
        assert_close(weights(training.weights_file), weights(training.baseline_file), rtol=0, atol=0)

    def test_only_ood_without_any_is_an_error(self, make):
        with pytest.raises(NotEnoughCasesError, match="only_ood is set, but no out-of-distribution patch is selected"):
            make(rate=0.0, network=bright_finder(), only_ood=True).run()

    def test_exact_fraction_is_taken_where_asked(self, make):
        training = make(exact_fraction=True, target_ratio=0.5)
        training.run()
        report = json.loads((training.folder / "proportion.json").read_text())
        assert report["fraction"] == report["exact_fraction"]
        assert report["target"] == 0.5


def bright_finder():
    """Calls foreground what is far brighter than anything but foreground."""
    network = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([0.0, 10.0]).reshape(2, 1, 1, 1))
        network.bias.copy_(torch.tensor([0.0, -10.5]))
    return network


class TestStages:
    def test_second_run_skips_everything(self, make, caplog):
        training = make()
        training.run()
        before = training.weights_file.read_bytes()
        stages(caplog)
        make().run()
        assert stages(caplog) == SKIPPED
        assert training.weights_file.read_bytes() == before

    def test_stages_one_by_one_give_the_same_as_all_at_once(self, make, caplog):
        whole = make("whole")
        whole.run()
        for stage in ("baseline", "mine", "combine"):
            make("single").run(stage)
        single = make("single")
        assert_close(weights(single.weights_file), weights(whole.weights_file), rtol=0, atol=0)
        for name in ("ood_candidates.csv", "ood_selected.json", "proportion.json"):
            assert (single.folder / name).read_bytes() == (whole.folder / name).read_bytes()

    @pytest.mark.parametrize("stage", ["mine", "combine"])
    def test_stage_alone_needs_the_one_before(self, make, stage):
        with pytest.raises(MissingDataError, match="stage baseline is not done for these inputs"):
            make().run(stage)

    def test_stage_of_other_inputs_is_not_built_upon(self, make):
        make().run("baseline")
        with pytest.raises(MissingDataError, match=r"stage baseline is not done.*settings changed"):
            make(rate=0.01).run("mine")

    def test_unknown_stage_is_named(self, make):
        with pytest.raises(ConfigError, match="stage is 'prune'; accepted are baseline, mine, combine"):
            make().run("prune")

    @pytest.mark.parametrize(
        ("change", "repeated"),
        [
            ({"ood_fraction": 0.3}, [2, 3]),
            ({"only_ood": True}, [3]),
            ({"epochs": 3}, [0, 3]),
            ({"rate": 0.01}, [0, 1, 2, 3]),
            ({"seed": 1}, [0, 1, 2, 3]),
            ({"val_interval": 2}, [0, 3]),
        ],
        ids=str,
    )
    def test_changed_input_repeats_what_depends_on_it(self, make, caplog, change, repeated):
        make(ood_fraction=1.0).run()
        stages(caplog)
        make(**({"ood_fraction": 1.0} | change)).run()
        found = stages(caplog)
        assert [found[index] for index in repeated] == [STARTED[index] for index in repeated]
        if change.keys() <= {"ood_fraction", "only_ood"}:
            assert [line for line in found if "skipped" in line] == SKIPPED[: repeated[0]]

    def test_changed_data_repeat_everything(self, make, cases, caplog):
        make().run()
        stages(caplog)
        with np.load(cases[0]["image"]) as arrays:
            content = {key: arrays[key] for key in arrays.files}
        np.savez(cases[0]["image"], **(content | {"image": content["image"] + 1}))
        make().run()
        assert stages(caplog) == STARTED

    def test_weights_that_a_handler_loads_are_an_input(self, make, tmp_path, caplog):
        torch.save(make().miner.network.state_dict(), tmp_path / "start.pt")

        def loading():
            network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
            return [CheckpointLoader(str(tmp_path / "start.pt"), {"model": network}, map_location="cpu")]

        make(handlers=loading()).run("baseline")
        assert stages(caplog) == STARTED[:1]
        make(handlers=loading()).run("baseline")
        assert stages(caplog) == SKIPPED[:1]
        torch.save({k: v * 2 for k, v in weights(tmp_path / "start.pt").items()}, tmp_path / "start.pt")
        make(handlers=loading()).run("baseline")
        assert stages(caplog) == STARTED[:1]

    def test_trainings_may_share_a_baseline(self, make, caplog):
        make("one", baseline_dir="base", ood_fraction=1.0).run()
        stages(caplog)
        second = make("two", baseline_dir="base", ood_fraction=0.5)
        second.run()
        assert stages(caplog) == SKIPPED[:2] + STARTED[2:]
        selections = [read_selection(second.folder.parent / name / "ood_selected.json") for name in ("one", "two")]
        assert set(selections[1]) < set(selections[0])


class TestResuming:
    def test_longer_run_goes_on_where_the_selection_is_the_same(self, make):
        make("whole", ood_fraction=0.0, epochs=3).run()
        make("parts", ood_fraction=0.0, epochs=1).run()
        resumed = make("parts", ood_fraction=0.0, epochs=3, resume=True)
        resumed.run()
        whole = make("whole", ood_fraction=0.0, epochs=3)
        assert_close(weights(resumed.weights_file), weights(whole.weights_file), rtol=0, atol=0)

    def test_checkpoint_of_another_selection_is_not_gone_on_from(self, make, caplog):
        make("parts", ood_fraction=1.0, epochs=1).run()
        make("parts", ood_fraction=0.5, epochs=2, resume=True).run()
        assert "was written for other inputs than this run's: training starts from the beginning" in caplog.text
        whole = make("whole", ood_fraction=0.5, epochs=2)
        whole.run()
        resumed = make("parts", ood_fraction=0.5, epochs=2)
        assert_close(weights(resumed.weights_file), weights(whole.weights_file), rtol=0, atol=0)

    def test_nothing_to_resume_from_is_an_error(self, make):
        with pytest.raises(MissingDataError, match=r"baseline/checkpoint\.pt"):
            make(resume=True).run()

    def test_run_stopped_before_its_last_stage_is_resumed(self, make, caplog):
        make().run("baseline")
        make().run("mine")
        stages(caplog)
        resumed = make(resume=True)
        resumed.run()
        assert stages(caplog) == SKIPPED[:3] + STARTED[3:]
        whole = make("whole")
        whole.run()
        assert_close(weights(resumed.weights_file), weights(whole.weights_file), rtol=0, atol=0)
