"""What ``double_mix`` promises beyond the contract: its ablations, its labeled share, and that it survives a kill."""

import csv
import json
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "double_mix"
OVERLAYS = ["supervised", "cps", "dhc", "mean_teacher"]
PARTS = {"image": "imagesTr", "label": "labelsTr"}
KINDS = {
    "none": "ClassWeight",
    "DisW": "DistributionWeight",
    "DifW": "DifficultyWeight",
    "CDifW": "ConfidenceDifficultyWeight",
    "CDisW": "ConfidenceDistributionWeight",
}
KILLER = """
import os, signal
from ignite.engine import Events

class KillAt:
    def __init__(self, iteration):
        self.iteration = iteration

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.iteration), self)

    def __call__(self, engine):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def folder(make_dataset, tmp_path_factory):
    """Ten cases of two organs, the second in a corner of the first, a tenth of its size."""
    return relabel(tmp_path_factory.mktemp("data") / "organs", make_dataset, [0, 1, 2], count=10)


def two_organs(_index, image, label):
    second = np.zeros_like(label)
    second[11:14, 9:12, 8:11] = 1
    label = np.where((second > 0) & (label > 0), 2, label).astype(np.uint8)
    return {"imagesTr": ((image + 60 * (label == 2)).astype(np.float32), np.eye(4)), "labelsTr": (label, np.eye(4))}


@pytest.fixture
def train(run_config, folder, tmp_path):
    """Trains on the ten cases with tiny settings; returns the output folder."""

    def start(*overlays, output="out", **settings):
        out = tmp_path / output
        names = ["train.json", *(f"{name}.json" for name in overlays)]
        given = {"dataset_dir": folder, "output_dir": out, "model_dir": out / "m", "labeled_fraction": 0.25}
        given |= {"samples_per_epoch": 2}
        run_config(BUNDLE, names, **(given | settings))
        return out

    return start


@pytest.fixture
def fail(fail_config, folder, tmp_path):
    """Trains with settings that must fail; returns the error after checking that no weights were left."""

    def start(**settings):
        given = {"dataset_dir": folder, "output_dir": tmp_path / "out", "model_dir": tmp_path / "m"}
        error = fail_config(BUNDLE, settings.pop("names", "train.json"), **(given | settings))
        assert not list(tmp_path.rglob("*.pt"))
        return error

    return start


def listing(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def relabel(folder, make_dataset, classes, edit=two_organs, count=6):
    """A folder whose listing names the given classes."""
    made = make_dataset(folder, count, edit=edit)
    content = json.loads((made / "dataset.json").read_text())
    content["labels"] = {str(value): f"organ {value}" if value else "background" for value in classes}
    (made / "dataset.json").write_text(json.dumps(content))
    return made


class TestAblations:
    @pytest.mark.parametrize("name", OVERLAYS)
    def test_every_overlay_trains(self, train, name):
        out = train(name, max_epochs=1)
        terms = {key for key in listing(out)["epochs"][0] if key.startswith("loss_")}
        assert terms == {"loss_supervised"} | ({"loss_unsupervised"} if name != "supervised" else set())
        assert (out / "m" / "signature_bank.npz").is_file()

    @pytest.mark.parametrize(
        ("key", "values"),
        [
            ("weight_a", ["none", "DisW", "DifW", "CDisW"]),
            ("weight_b", ["none", "DifW", "CDifW", "CDisW"]),
            ("mixing", ["none", "CutMix", "CutOut", "ClassMix"]),
            ("draw", ["bernoulli"]),
        ],
    )
    def test_every_choice_is_one_key(self, bundle_importable, tiny_settings, folder, tmp_path, key, values):
        """One iteration of the trainer that the config makes."""
        content = json.loads((BUNDLE / "configs" / "train.json").read_text())
        content["network_def"]["features"] = tiny_settings(content)["network_def#features"]
        tiny = {"roi_size": [16, 16, 16], "samples_per_epoch": 2, "max_epochs": 1, "cache_rate": 0.0, "device": "cpu"}
        tiny |= {"dataset_dir": str(folder), "output_dir": str(tmp_path)}
        for value in values:
            with bundle_importable(BUNDLE):
                parser = ConfigParser(content | tiny | {key: value})
                parser["train"]["handlers"] = []
                trainer = parser.get_parsed_content("train#trainer")
                trainer.run()
                kinds = [type(weight).__name__ for weight in parser.get_parsed_content("train#step").class_weights]
            assert all(term.isfinite() for term in trainer.state.output.values())
            assert ("mixed" in trainer.state.output) == (value != "none" or key != "mixing")
            expected = {"weight_a": "CDifW", "weight_b": "DisW"} | {key: value}
            assert kinds == [KINDS[expected[name]] for name in ("weight_a", "weight_b")]

    @pytest.mark.parametrize("key", ["weight_a", "weight_b", "mixing", "teaching", "teacher", "draw"])
    def test_choices_that_do_not_exist_are_refused(self, fail, key):
        error = fail(**{key: "nonsense"})
        assert "'nonsense'" in str(error)
        assert "accepted are" in str(error)

    def test_full_settings_are_those_of_the_source(self, bundle_importable):
        with bundle_importable(BUNDLE):
            configs = [json.loads((BUNDLE / "configs" / f"{name}.json").read_text()) for name in ("inference", "full")]
            parser = ConfigParser(configs[0] | configs[1])
            network, divisor, layers = (
                parser.get_parsed_content(k) for k in ("network_def", "divisor", "feature_layers")
            )
            assert type(network.network_a).__name__ == "VNet"
            layer = network.get_submodule(layers[0])
            assert type(layer).__name__ == "UpTransition"
            assert not parser["roi_size"][0] % divisor
            shapes = []
            with torch.no_grad(), layer.register_forward_hook(lambda _m, _i, output: shapes.append(output.shape)):
                logits = network.eval()(torch.zeros(1, 1, divisor, divisor, divisor))
            assert logits.shape == (1, 3, 16, 16, 16)
            assert shapes == [(1, 32, 16, 16, 16)]
        train = json.loads((BUNDLE / "configs" / "train.json").read_text())
        values = {name: train[name] for name in ("roi_size", "learning_rate", "momentum", "weight_decay", "theta_max")}
        assert values == {
            "roi_size": [128, 128, 64], "learning_rate": 1e-3, "momentum": 0.9, "weight_decay": 3e-5, "theta_max": 1.0,
        }  # fmt: skip


class TestLabeledShare:
    def test_split_tells_the_labeled_and_the_unlabeled(self, train, folder):
        """Ten cases: two to validate; a quarter of the other eight is labeled."""
        split = json.loads((train(max_epochs=1) / "split.json").read_text())
        counts = {part: len(names.get(folder.name, ())) for part, names in split.items()}
        assert counts == {"train": 2, "unlabeled": 6, "val": 2, "test": 0}

    def test_labels_that_are_not_used_are_not_read(self, train, folder, run_config, tmp_path):
        split = json.loads((train(max_epochs=1) / "split.json").read_text())
        state = torch.load(tmp_path / "out" / "m" / "model.pt", weights_only=True)
        bare = tmp_path / "bare" / folder.name
        (bare / "labelsTr").mkdir(parents=True)
        (bare / "imagesTr").symlink_to(folder / "imagesTr")
        content = json.loads((folder / "dataset.json").read_text())
        for item in content["training"]:
            name = Path(item["image"]).name
            if name.removesuffix(".nii.gz") in split["unlabeled"][folder.name]:
                (bare / "labelsTr" / name).write_bytes(b"no label at all")
            else:
                (bare / "labelsTr" / name).symlink_to(folder / "labelsTr" / name)
        (bare / "dataset.json").write_text(json.dumps(content))
        other = train(output="other", dataset_dir=bare, max_epochs=1)
        for name, value in torch.load(other / "m" / "model.pt", weights_only=True).items():
            assert torch.equal(value, state[name]), name

    def test_named_cases_are_the_labeled_ones(self, train, folder):
        out = train(max_epochs=1, labeled_cases=["case_3", "case_8"])
        split = json.loads((out / "split.json").read_text())
        assert split["train"][folder.name] == ["case_3", "case_8"]

    def test_unlabeled_scans_of_another_folder(self, train, make_scan, tmp_path):
        (tmp_path / "more").mkdir()
        nib.save(nib.Nifti1Image(make_scan(77)[0], np.eye(4)), tmp_path / "more" / "extra.nii.gz")
        out = train(max_epochs=1, unlabeled_dir=tmp_path / "more", labeled_fraction=1)
        assert json.loads((out / "split.json").read_text())["unlabeled"] == {"more": ["extra"]}

    def test_bank_holds_labeled_and_unlabeled_cases(self, train):
        with np.load(train(max_epochs=1) / "m" / "signature_bank.npz", allow_pickle=False) as bank:
            assert len(bank["signatures"]) == 8


class TestListsFromOutside:
    """MONAI Label and federated clients set the lists of labeled cases, and tell nothing of unlabeled ones."""

    @pytest.fixture
    def lists(self, folder):
        cases = [{key: str(folder / part / f"case_{i}.nii.gz") for key, part in PARTS.items()} for i in range(4)]
        return {"train#dataset#data": cases[:3], "validate#dataset#data": cases[3:], "dataset_dir": None}

    def test_unlabeled_scans_come_from_their_own_folder(self, train, lists, folder):
        out = train(max_epochs=1, unlabeled_dir=folder / "imagesTr", **lists)
        split = json.loads((out / "split.json").read_text())
        assert {part: sum(map(len, names.values())) for part, names in split.items()} == {
            "train": 3, "unlabeled": 6, "val": 1,
        }, "labeled and validated scans lie in the same folder"  # fmt: skip
        assert not (out / "phantoms").exists()
        assert (out / "m" / "model.pt").is_file(), "given data, whatever dataset_dir says"

    def test_without_unlabeled_scans_the_labeled_ones_serve_as_such_too(self, train, lists):
        out = train(max_epochs=1, **lists)
        split = json.loads((out / "split.json").read_text())
        assert {part: sum(map(len, names.values())) for part, names in split.items()} == {
            "train": 3,
            "val": 1,
            "unlabeled": 0,
        }
        assert (out / "m" / "model.pt").is_file()


class TestBadInput:
    @pytest.mark.parametrize("value", [0, -0.5, 1.5])
    def test_labeled_fraction_beyond_its_range(self, fail, value):
        assert f"labeled_fraction is {value}; accepted is above 0, up to 1" in str(fail(labeled_fraction=value))

    def test_no_unlabeled_case_is_left(self, fail):
        error = fail(labeled_fraction=1)
        assert type(error).__name__ == "NotEnoughCasesError"
        assert "no unlabeled case is left beside 8 labeled one(s); lower labeled_fraction, give unlabeled_dir" in str(
            error
        )

    def test_supervised_training_needs_none(self, train):
        assert (train("supervised", labeled_fraction=1, max_epochs=1) / "m" / "model.pt").is_file()

    def test_fewer_labeled_cases_than_a_batch_needs(self, fail):
        error = fail(labeled_fraction=0.1, batch_size=6)
        assert "1 labeled case(s), but half of a batch of 6 needs 3; raise labeled_fraction" in str(error)

    def test_odd_batch(self, fail):
        assert "batch_size is 3; half of a batch is labeled: give an even number" in str(fail(batch_size=3))

    def test_labels_beyond_the_classes(self, fail, make_dataset, tmp_path):
        def third(index, image, label):
            return {"labelsTr": (label * 3, np.eye(4))}

        data = relabel(tmp_path / "data", make_dataset, [0, 1, 2, 3], third)
        error = fail(dataset_dir=data, labeled_fraction=0.5)
        assert "label holds 3 but out_channels is 3, that is, 0 to 2; set out_channels to 4 or, where" in str(error)
        assert "case 'case_" in str(error)

    def test_labels_with_gaps_are_named_in_order(self, train, make_dataset, tmp_path):
        def gaps(index, image, label):
            made = two_organs(index, image, label)
            return made | {"labelsTr": (np.array([0, 7, 40], np.uint8)[made["labelsTr"][0]], np.eye(4))}

        data = relabel(tmp_path / "gaps", make_dataset, [0, 7, 40], gaps)
        out = train(dataset_dir=data, foreground_labels={"gaps": [7, 40]}, max_epochs=1, labeled_fraction=0.5)
        epoch = listing(out)["epochs"][0]
        assert epoch["weight_b/1"] < epoch["weight_b/2"], "both classes are found, the second is rarer"

    def test_class_that_never_occurs_is_named_and_training_goes_on(self, train, make_dataset, tmp_path, caplog):
        data = relabel(tmp_path / "data", make_dataset, [0, 1, 2], edit=None)
        with caplog.at_level("WARNING"):
            out = train(dataset_dir=data, labeled_fraction=0.5, max_epochs=1)
        said = [record.getMessage() for record in caplog.records if "never occurs" in record.getMessage()]
        assert len(said) == 1
        assert said[0].startswith("class 2 (organ 2) never occurs in the labeled part (2 cases)")
        assert all(np.isfinite(value) for value in listing(out)["epochs"][0].values())

    def test_one_class_only(self, fail):
        assert "out_channels is 1; a softmax needs background and a class" in str(fail(out_channels=1))

    def test_missing_unlabeled_images(self, fail, tmp_path):
        error = fail(unlabeled_dir=tmp_path / "nowhere")
        assert "unlabeled_dir" in str(error)
        assert "nowhere does not exist" in str(error)


class TestWeightsOverTime:
    def test_weights_are_in_the_log_and_drawn(self, train):
        out = train(max_epochs=2)
        names = {f"weight_{network}/{index}" for network in "ab" for index in range(3)}
        epochs = listing(out)["epochs"]
        assert names <= set(epochs[0])
        assert epochs[0]["weight_b/0"] == 0 < epochs[0]["weight_b/1"] < epochs[0]["weight_b/2"] == 1
        assert epochs[0]["weight_a/1"] != epochs[1]["weight_a/1"]
        events = EventAccumulator(str(out)).Reload()
        assert names <= set(events.Tags()["scalars"])
        assert [event.step for event in events.Scalars("weight_a/2")] == [1, 2]
        assert events.Scalars("weight_a/2")[1].value == pytest.approx(epochs[1]["weight_a/2"], rel=1e-6)
        assert (out / "class_weights.png").read_bytes().startswith(b"\x89PNG")


def test_arms_are_compared_by_one_command(run_config, folder, tmp_path):
    tiny = {"max_epochs": 1, "batch_size": 2, "samples_per_epoch": 2, "test_fraction": 0.4, "split_seed": 0}
    tiny |= {"network_def#features": [4, 8, 8, 8], "roi_size": [24, 24, 24]}
    run_config(
        BUNDLE, "experiment.json", dataset_dir=folder, output_dir=tmp_path, labeled={"labeled_fraction": [0.5]},
        seeds=[0], arms={"supervised": ["supervised.json"], "cps": ["cps.json"]}, settings=tiny,
    )  # fmt: skip
    with open(tmp_path / "methods.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "dsc" and row["case"]]
    tested = {arm: [row["case"] for row in rows if row["arm"] == arm] for arm in ("supervised", "cps")}
    assert len(tested["cps"]) == 4
    assert tested["cps"] == tested["supervised"], "the same cases for all"


def test_run_killed_in_the_middle_of_an_epoch_ends_like_an_uninterrupted_one(run_command, folder, tmp_path):
    """SIGKILL in the second of three epochs, then ``--resume``: the same weights, averages, statistics and bank."""
    (tmp_path / "killer.py").write_text(KILLER, encoding="utf-8")
    overlay = tmp_path / "kill.json"
    overlay.write_text(json.dumps({"+train#handlers": [{"_target_": "killer.KillAt", "iteration": 6}]}))
    settings = {"dataset_dir": folder, "max_epochs": 3, "labeled_fraction": 0.25, "env": {"PYTHONPATH": str(tmp_path)}}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_command(BUNDLE, "train.json", cwd=tmp_path, output_dir=whole, model_dir=whole / "m", **settings)
    places = {"output_dir": cut, "model_dir": cut / "m"}
    # Eight cases in batches of two: the sixth iteration is the second of the second epoch.
    killed = run_command(BUNDLE, ["train.json", overlay], cwd=tmp_path, check=False, **places, **settings)
    assert killed.returncode == -signal.SIGKILL
    assert torch.load(cut / "checkpoint.pt", weights_only=True)["progress"]["epoch"] == 1
    run_command(BUNDLE, "train.json", cwd=tmp_path, resume=True, **places, **settings)
    first, second = (torch.load(path / "checkpoint.pt", weights_only=True) for path in (whole, cut))
    for member in ("network", "ema", "weight_a", "weight_b"):
        torch.testing.assert_close(second[member], first[member], rtol=0, atol=0)
    assert int(first["ema"]["n_averaged"]) == 12
    assert first["schedule"] == second["schedule"]
    assert listing(whole) == listing(cut)
    best = [torch.load(path / "m" / "model.pt", weights_only=True) for path in (whole, cut)]
    torch.testing.assert_close(best[1], best[0], rtol=0, atol=0)
    assert (whole / "m" / "signature_bank.npz").read_bytes() == (cut / "m" / "signature_bank.npz").read_bytes()


@pytest.fixture(scope="module")
def cut(run_config, folder, tmp_path_factory):
    """The output folder of a run of one epoch."""
    out = tmp_path_factory.mktemp("cut")
    settings = {"labeled_fraction": 0.25, "samples_per_epoch": 2, "max_epochs": 1}
    run_config(BUNDLE, "train.json", dataset_dir=folder, output_dir=out, model_dir=out / "m", **settings)
    return out


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"seed": 1}, "seed is 1"),
        ({"mixing": "CutMix"}, 'mixing is "CutMix"'),
        ({"labeled_fraction": 0.5}, "labeled_fraction is 0.5"),
        # The learning rate falls to 0 at the end of as many epochs.
        ({"max_epochs": 2}, "schedule#total_iters is 2"),
    ],
)
def test_run_is_not_resumed_with_other_cases_or_settings(fail_config, folder, cut, other, text):
    settings = {"dataset_dir": folder, "output_dir": cut, "model_dir": cut / "m", "labeled_fraction": 0.25}
    settings |= {"samples_per_epoch": 2, "max_epochs": 1, "resume": True}
    error = str(fail_config(BUNDLE, "train.json", **(settings | other)))
    assert error.startswith(f"{text}, but {cut / 'checkpoint.pt'} was trained with ")


def test_two_processes_hold_the_same_networks_and_weights(states_of_two_processes, folder):
    """Each rank writes its state: gradients are averaged and statistics summed, so both must agree."""
    members = ["@network_def", "@train#weight_a", "@train#weight_b"]
    settings = {"dataset_dir": folder, "labeled_fraction": 0.5, "samples_per_epoch": 16}
    first, second = states_of_two_processes(BUNDLE, members, **settings)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first[0]


def test_two_processes_with_batch_norm_hold_the_same_networks(states_of_two_processes, folder):
    """Also the same running statistics: the main process's, which are sent before every validation."""
    settings = {"dataset_dir": folder, "labeled_fraction": 0.5, "samples_per_epoch": 4, "network_def#norm": "batch"}
    first, second = states_of_two_processes(BUNDLE, ["@network_def", "@train#ema"], **settings)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    for state in first:
        means = [value for name, value in state.items() if name.endswith("running_mean")]
        assert means
        assert all(mean.any() for mean in means)
