"""What ``med_ood`` promises beyond the contract: its stages, pictures of every kind, and its comparisons."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "med_ood"
pytestmark = pytest.mark.xdist_group("med_ood")
STAGES = ("baseline", "mine", "combine")
STEPS = ("baseline", "mine", "select", "combine")
SHORT = {
    "max_epochs": 1,
    "batch_size": 4,
    "learning_rate": 0.01,
    "samples_per_epoch": 64,
    "roi_size": [32, 32],
    "norm": "instance",
}
FEW = SHORT | {"samples_per_epoch": 8}
"""For what takes many trainings."""
WRITTEN = ("ood_candidates.csv", "ood_selected.json", "proportion.json")


def draw(index, size):
    """A pink picture with dark round cells, which the label holds, and two paler stains, which it does not."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[: size[1], : size[0]]
    label = np.zeros(size[::-1], dtype=np.uint8)
    picture = np.full((*label.shape, 3), (235, 190, 215), dtype=float)
    for number in range(6):
        radius = np.hypot(x - rng.uniform(0, size[0]), y - rng.uniform(0, size[1]))
        picture[radius < 9] = (140, 100, 175) if number > 3 else (110, 70, 160)
        label[radius < 9] = 0 if number > 3 else 1
    return (picture + rng.normal(0, 6, picture.shape)).clip(0, 255).astype(np.uint8), label


def write_pictures(folder, sizes, *, save_label=None, labels=None, **keys):
    """A folder in the layout of the 2-D sets; ``labels`` may replace the label of each picture."""
    items = []
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for index, size in enumerate(sizes):
        picture, label = draw(index, size)
        label = label if labels is None else labels(index, label)
        name = f"tile_{index}.png"
        Image.fromarray(picture).save(folder / "images" / name)
        (save_label or (lambda array: Image.fromarray(array)))(label).save(folder / "masks" / name)
        item = {"image": f"./images/{name}", "label": f"./masks/{name}"}
        items.append(item | {key: values[index] for key, values in keys.items()})
    listing = {"labels": {"0": "background", "1": "cell"}, "training": items}
    (folder / "dataset.json").write_text(json.dumps(listing))
    return folder


SIZES = [(64, 64), (50, 70), (33, 40), (64, 48), (70, 64), (40, 40)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data") / "tiles", SIZES)


@pytest.fixture(scope="module")
def trained(pictures, run_config, tmp_path_factory):
    """A whole run."""
    folder = tmp_path_factory.mktemp("trained")
    run_config(BUNDLE, "train.json", dataset_dir=pictures, output_dir=folder, model_dir=folder / "m", **SHORT)
    return folder


@pytest.fixture
def train(run_config, pictures, tmp_path):
    """Trains with short settings below ``tmp_path``; returns the output folder."""

    def start(run_id="run", *, names="train.json", output="out", **settings):
        folder = tmp_path / output
        given = {"dataset_dir": pictures, "output_dir": folder, "model_dir": folder / "m"} | SHORT
        run_config(BUNDLE, names, run_id, **(given | settings))
        return folder

    return start


@pytest.fixture
def fail(fail_config, tmp_path):
    """Trains on a folder, which must fail; returns the error."""

    def start(folder, **settings):
        given = {"dataset_dir": folder, "output_dir": tmp_path / "out", "model_dir": tmp_path / "m"} | SHORT
        return fail_config(BUNDLE, "train.json", **(given | settings))

    return start


def assert_same_run(first, second):
    """Selection, weights and bank are equal bit for bit."""
    for name in (*WRITTEN, "m/signature_bank.npz"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    for name in ("m/model.pt", "baseline/model.pt"):
        pair = [torch.load(folder / name, weights_only=True) for folder in (first, second)]
        torch.testing.assert_close(*pair, rtol=0, atol=0)


WITHIN = {
    # It draws what it has written the table of.
    "mine": """
from scripts.common.ood_mining.mine import CandidateMiner
CandidateMiner._draw = kill
""",
    "combine": """
from scripts.common.ood_mining.training import StagedTraining

def train(self, indices, folder, *rest):
    if folder == self.output_dir:
        kill_in_second_epoch(self.trainer)
    plain(self, indices, folder, *rest)

plain, StagedTraining._train = StagedTraining._train, train
""",
}
"""Where to kill within a stage; see ``run_killed``."""


@pytest.fixture
def killed(run_killed, pictures):
    """A training in a process that is killed; returns the stages that it began."""

    def start(folder, **settings):
        given = {"dataset_dir": pictures, "output_dir": folder, "model_dir": folder / "m"} | SHORT
        return run_killed(BUNDLE, **(given | settings))

    return start


class TestStages:
    def test_whole_run_writes_what_the_stages_say(self, trained):
        files = {path.relative_to(trained).as_posix() for path in trained.rglob("*")}
        own = {"metrics.json", "training.png", "checkpoint.pt"}
        assert files >= set(WRITTEN) | own | {f"baseline/{name}" for name in own} | {"baseline/model.pt", "m/model.pt"}
        assert len(list(trained.glob("events.*"))) == len(list((trained / "baseline").glob("events.*"))) == 1
        assert not list(trained.rglob("ood_patches")), "no patch is written unless asked for"

    def test_every_patch_has_a_candidate_with_a_score(self, trained, read_json, read_table):
        split = read_json(trained / "split.json")["train"]["tiles"]
        expected = sorted(
            (name, f"{x} {y}")
            for name in split
            for x in range(0, SIZES[int(name[-1])][0], 32)
            for y in range(0, SIZES[int(name[-1])][1], 32)
        )
        rows = read_table(trained / "ood_candidates.csv")
        assert sorted((row["case"], row["start"]) for row in rows) == expected
        assert all(0 <= float(row["score"]) <= 1 for row in rows)
        report = read_json(trained / "proportion.json")
        assert report["num_ood"] == sum(row["kept"] == "True" for row in rows)
        assert len(read_json(trained / "ood_selected.json")["patches"]) == report["num_selected"]
        assert [line["fraction"] for line in report["percentages"]] == [round(0.1 * n, 1) for n in range(11)]

    def test_stages_alone_give_the_same_as_the_whole(self, train, trained):
        for stage in STAGES:
            folder = train(stage)
        assert_same_run(folder, trained)

    def test_second_run_is_skipped_and_a_changed_option_is_not(self, train, caplog):
        caplog.set_level("INFO")
        train()
        caplog.clear()
        train()
        assert [step for step in STEPS if f"stage {step}: skipped" in caplog.text] == list(STEPS)
        caplog.clear()
        train(target_ratio=0.5)
        assert [step for step in STEPS if f"stage {step}: skipped" in caplog.text][:2] == ["baseline", "mine"]
        assert "stage select: starts (settings changed)" in caplog.text

    def test_baseline_of_another_device_is_taken(self, train, trained, caplog):
        """On a GPU it would have been trained in bfloat16."""
        caplog.set_level("INFO")
        train("mine", baseline_dir=trained, amp=True)
        assert "stage mine: skipped" in caplog.text

    def test_killed_in_any_stage_it_ends_in_the_same_selection(self, killed, trained, tmp_path):
        """By SIGKILL as soon as a stage begins, one after the other; each start repeats that stage alone."""
        begun = [stage for kill_in in (*STAGES, "") for stage in killed(tmp_path, stage=kill_in)]
        assert begun == ["baseline", "baseline", "mine", "mine", "select", "combine", "combine"]
        assert_same_run(tmp_path, trained)

    @pytest.mark.parametrize(("where", "epochs"), [("mine", 1), ("combine", 2)])
    def test_killed_within_a_stage_it_repeats_that_alone(self, train, trained, killed, tmp_path, caplog, where, epochs):
        """When the table of candidates is written, but not yet the record; in the second epoch."""
        folder, whole = train("baseline" if where == "mine" else "run", max_epochs=epochs), trained
        if where == "combine":
            whole = shutil.copytree(folder, tmp_path / "whole")
            for name in ("stages/combine.json", "checkpoint.pt", "m/model.pt", "m/signature_bank.npz"):
                (folder / name).unlink()
        assert killed(folder, patch=WITHIN[where], max_epochs=epochs) == [where]
        written = "ood_candidates.csv" if where == "mine" else "checkpoint.pt"
        assert (folder / written).is_file()
        assert not (folder / "stages" / f"{where}.json").exists()
        caplog.set_level("INFO")
        caplog.clear()
        train(max_epochs=epochs)
        first = next(step for step in STEPS if f"stage {step}: starts" in caplog.text)
        assert first == where
        assert_same_run(folder, whole)


class TestOptions:
    @pytest.mark.parametrize(
        "settings",
        [
            {"fill": "mean"},
            {"fill": "noise"},
            {"fill": "inpaint"},
            {"reduction": "per_class"},
            {"norm": "none", "learning_rate": 0.001},
            {"norm": "batch"},
            {"exact_fraction": True},
            {"count_padding": True},
        ],
        ids=str,
    )
    def test_every_option_trains(self, train, settings):
        folder = train(**settings)
        assert (folder / "m" / "signature_bank.npz").is_file()
        if "norm" in settings:
            names = list(torch.load(folder / "m" / "model.pt", weights_only=True))
            assert any("running_mean" in name for name in names) == (settings["norm"] == "batch")
            assert any(".N." in name for name in names) == (settings["norm"] == "batch")

    def test_only_ood_trains_on_the_selected_alone(self, train, caplog, read_json):
        caplog.set_level("INFO")
        folder = train(only_ood=True, ood_fraction=1.0)
        number = len(read_json(folder / "ood_selected.json")["patches"])
        assert number
        assert f"training on 0 known and {number} out-of-distribution patches" in caplog.text

    def test_selected_patches_are_written_when_asked_for(self, train, read_json):
        folder = train(save_patches=True, ood_fraction=1.0)
        written = sorted(path.name for path in (folder / "ood_patches").iterdir())
        patches = read_json(folder / "ood_selected.json")["patches"]
        assert written == sorted(f"{p['index']}_{p['case']}_{p['start'][0]}_{p['start'][1]}.png" for p in patches)
        with Image.open(folder / "ood_patches" / written[0]) as picture:
            assert (picture.mode, picture.size) == ("RGB", (32, 32))

    def test_pictures_without_foreground_are_further_candidates(self, train, tmp_path, read_table):
        for index in range(2):
            (tmp_path / "healthy").mkdir(exist_ok=True)
            Image.fromarray(draw(index, (40, 32))[0]).save(tmp_path / "healthy" / f"h_{index}.png")
        rows = read_table(train(candidate_dir=tmp_path / "healthy") / "ood_candidates.csv")
        added = sorted((row["case"], row["start"]) for row in rows if row["kind"] == "candidate")
        assert added == [("h_0", "0 0"), ("h_0", "32 0"), ("h_1", "0 0"), ("h_1", "32 0")]

    def test_folds_keep_regions_together(self, train, tmp_path, read_json):
        regions = ["a", "a", "b", "b", "c", "d"]
        data = write_pictures(tmp_path / "regions", SIZES, region=regions)
        tested = []
        for fold in range(3):
            split = read_json(
                train("baseline", output=f"f{fold}", dataset_dir=data, num_folds=3, fold=fold) / "split.json"
            )
            parts = {part: {regions[int(name[-1])] for name in named["regions"]} for part, named in split.items()}
            assert not parts["train"] & parts["val"]
            assert not parts["test"] & (parts["train"] | parts["val"])
            tested += sorted(parts["test"])
        assert sorted(tested) == ["a", "b", "c", "d"]

    def test_volumes_are_a_matter_of_one_overlay(self, run_config, make_dataset, tmp_path, read_table):
        data = make_dataset(tmp_path / "organ", 4)
        given = {"dataset_dir": data, "model_dir": tmp_path / "m", "roi_size": [32, 32, 32]}
        names = ["train.json", "volumes.json"]
        run_config(BUNDLE, names, output_dir=tmp_path / "out", learning_rate=0.01, samples_per_epoch=8, **given)
        assert {row["start"] for row in read_table(tmp_path / "out" / "ood_candidates.csv")} == {"0 0 0"}
        run_config(BUNDLE, ["inference.json", "volumes.json"], output_dir=tmp_path / "seg", **given)
        assert (tmp_path / "seg" / "case_0" / "case_0_seg.nii.gz").is_file()


class TestBadInput:
    def test_no_foreground_and_no_background(self, fail, tmp_path):
        for name, value in (("foreground", 0), ("background", 1)):
            data = write_pictures(tmp_path / name, SIZES, labels=lambda index, label, value=value: label * 0 + value)
            error = fail(data)
            assert f"the labels of all 5 training cases hold no {name}: there is nothing to tell apart" in str(error)

    def test_palette_and_16_bit_labels_are_class_numbers(self, trained, train, tmp_path, read_json):
        def palette(label):
            picture = Image.fromarray(label, mode="P")
            picture.putpalette([0, 0, 0, 255, 40, 40] + [0] * 762)
            return picture

        folders = {
            "palette": write_pictures(tmp_path / "b" / "tiles", SIZES, save_label=palette),
            "16 bit": write_pictures(
                tmp_path / "c" / "tiles", SIZES, save_label=lambda label: Image.fromarray(label.astype(np.uint16))
            ),
        }
        counts = []
        for folder in (trained, *(train(output=name, dataset_dir=data) for name, data in folders.items())):
            report = read_json(folder / "proportion.json")
            counts.append((report["num_positive"], report["num_negative"], report["kept"]["mean_removed_foreground"]))
        assert counts[0] == counts[1] == counts[2]
        assert counts[0][0] > 0

    def test_color_labels_are_refused(self, fail, tmp_path):
        data = write_pictures(
            tmp_path / "data", SIZES, save_label=lambda label: Image.fromarray(np.stack([label] * 3, axis=-1))
        )
        assert "has 3 channels; save the numbers of the classes in one channel" in str(fail(data))

    def test_palette_picture_is_refused(self, fail, pictures, tmp_path):
        data = write_pictures(tmp_path / "data", SIZES)
        with Image.open(data / "images" / "tile_2.png") as picture:
            picture.convert("P").save(data / "images" / "tile_2.png")
        error = fail(data, in_channels=1)
        assert "case 'tile_" in str(error)
        assert "in_channels set and a network trained for it" in str(error) or "palette of colors" in str(error)
        for index in range(len(SIZES)):
            with Image.open(data / "images" / f"tile_{index}.png") as picture:
                picture.convert("P").save(data / "images" / f"tile_{index}.png")
        assert "the picture has a palette of colors; save it as RGB or as gray values" in str(fail(data, in_channels=1))

    def test_color_picture_to_a_network_of_one_channel(self, fail, pictures):
        error = fail(pictures, in_channels=1)
        assert "has 3 channels; this bundle takes 1" in str(error)
        assert "a color picture turned to gray" in str(error)

    def test_class_beyond_the_network(self, fail, tmp_path, read_json):
        data = write_pictures(tmp_path / "data", SIZES)
        listing = read_json(data / "dataset.json") | {"labels": {str(n): "x" for n in range(6)}}
        (data / "dataset.json").write_text(json.dumps(listing))
        with Image.open(data / "masks" / "tile_0.png") as picture:
            Image.fromarray(np.asarray(picture) * 5).save(data / "masks" / "tile_0.png")
        assert "label holds 5 but out_channels is 3" in str(fail(data))


@pytest.fixture(scope="module")
def evaluated(trained, pictures, run_config, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluated")
    run_config(
        BUNDLE, "evaluate.json", dataset_dir=pictures, output_dir=output, model_dir=trained / "m",
        baseline_file=trained / "baseline" / "model.pt", roi_size=[32, 32], norm="instance",
    )  # fmt: skip
    return output


class TestComparison:
    def test_test_set_stands_beside_the_constant_prediction(self, evaluated, read_json):
        report = read_json(evaluated / "metrics.json")["test_set"]
        constant = report["all_background"]
        shares = [float((draw(index, size)[1] == 0).mean()) for index, size in enumerate(SIZES)]
        assert constant["dsc_pooled"] == pytest.approx(np.mean(shares))
        assert constant["iou_pooled"] == pytest.approx(np.mean([b / (2 - b) for b in shares]))
        assert constant["miou_foreground"] == 0
        assert report["per_class"].keys() == {"1", "2"}
        assert report["per_class"]["2"]["iou"] is None, "absent classes are left out"
        assert report["miou_foreground"] == report["per_class"]["1"]["iou"]
        assert sum(report["confusions"][key] for key in ("foreground", "background")) == sum(a * b for a, b in SIZES)

    def test_baseline_is_compared_on_the_same_pictures(self, evaluated, read_json):
        comparison, own = read_json(evaluated / "comparison.json"), read_json(evaluated / "metrics.json")["test_set"]
        assert comparison["Med-OoD"]["iou_pooled"] == pytest.approx(own["iou_pooled"])
        assert comparison["Med-OoD"]["confusions"] == own["confusions"]
        assert comparison["baseline"]["images"] == len(SIZES)
        assert comparison["iou_pooled_signed_rank"]["n"] == len(SIZES)
        for name in ("per_class.png", "side_by_side.png"):
            assert (evaluated / name).read_bytes().startswith(b"\x89PNG")

    def test_folds_are_summarized(self, evaluated, run_config, tmp_path, read_json, read_table):
        other = tmp_path / "other"
        other.mkdir()
        report = read_json(evaluated / "metrics.json")
        report["test_set"]["iou_pooled"] += 0.1
        (other / "metrics.json").write_text(json.dumps(report))
        folds = [str(evaluated), str(other)]
        run_config(BUNDLE, "evaluate.json", "summarize", fold_dirs=folds, output_dir=tmp_path / "folds")
        summary = read_json(tmp_path / "folds" / "folds.json")
        value = read_json(evaluated / "metrics.json")["test_set"]["iou_pooled"]
        assert summary["iou_pooled"]["mean"] == pytest.approx(value + 0.05)
        assert summary["iou_pooled"]["std"] == pytest.approx(0.05)
        assert summary["per_class/2/iou"]["n"] == 0
        assert summary["baseline/iou_pooled"]["n"] == 1
        rows = read_table(tmp_path / "folds" / "folds.csv")
        assert [row["measure"] for row in rows] == list(summary)

    def test_folds_must_have_been_evaluated(self, fail_config, tmp_path):
        for folders, words in (([], "fold_dirs is empty"), ([str(tmp_path)], "holds no metrics.json with a test_set")):
            error = fail_config(BUNDLE, "evaluate.json", "summarize", fold_dirs=folders, output_dir=tmp_path)
            assert words in str(error)

    def test_sweep_has_a_point_for_every_percentage_and_shares_its_baseline(
        self, run_config, pictures, tmp_path, caplog, read_json
    ):
        caplog.set_level("INFO")
        names = ["evaluate.json", "experiment.json"]
        given = {"dataset_dir": pictures, "output_dir": tmp_path, "num_folds": 2, "seeds": [0]} | FEW
        run_config(BUNDLE, names, "sweep", percentages=[0, 1], **given)
        report = read_json(tmp_path / "experiment.json")
        assert list(report["table"]) == ["all background", "baseline", "0 %", "100 %"]
        assert all(figures["runs"] == [[0, 0], [1, 0]] for figures in report["table"].values())
        none, everything = report["table"]["0 %"], report["table"]["100 %"]
        assert none["selected"]["mean"] == 0
        assert none["pnr"]["values"] == report["table"]["baseline"]["pnr"]["values"]
        assert everything["selected"]["values"] == everything["candidates"]["values"]
        # Nothing selected repeats the baseline; the same pictures are tested once in each fold.
        assert none["iou_pooled"]["values"] == report["table"]["baseline"]["iou_pooled"]["values"]
        assert np.sum(none["confusion_matrix"]) == sum(a * b for a, b in SIZES)
        assert none["against_baseline"]["iou_pooled"] == pytest.approx(
            {"n": 2, "first": none["iou_pooled"]["mean"], "second": none["iou_pooled"]["mean"], "difference": 0, "p": 1}
        )
        assert caplog.text.count("stage baseline: starts") == 2
        for name in ("miou_over_pnr.png", "per_class.png"):
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
        run_config(BUNDLE, names, "sweep", percentages=[0, 1], **given)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")} == before

    def test_experiment_compares_a_variant_with_the_baseline_of_its_own_loss(
        self, run_config, pictures, tmp_path, read_json
    ):
        variants = {"chosen": {}, "per class": {"reduction": "per_class", "seeds": [1]}}
        run_config(
            BUNDLE, ["evaluate.json", "experiment.json"], dataset_dir=pictures, output_dir=tmp_path, num_folds=2,
            seeds=[0, 1], variants=variants, **FEW,
        )  # fmt: skip
        table = read_json(tmp_path / "experiment.json")["table"]
        assert table["chosen"]["runs"] == [[0, 0], [0, 1], [1, 0], [1, 1]]
        assert table["per class"]["runs"] == [[0, 1], [1, 1]]
        own = next(name for name in table if name.startswith("baseline") and name != "baseline")
        pair = table["per class"]["against_baseline"]["miou_foreground"]
        assert pair["first"] == pytest.approx(table["per class"]["miou_foreground"]["mean"])
        assert pair["second"] == pytest.approx(table[own]["miou_foreground"]["mean"])

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"variants": {"x": {"fil": "mean"}}}, "variant 'x' sets 'fil', which is no option of train.json; did you"),
            ({"variants": {"x": {"network_pair": "Unet-vgg11_bn"}}}, "variant 'x' sets 'network_pair', which is no"),
            ({"variants": {"x": {"fold": 1}}}, "variant 'x' sets 'fold', which the experiment sets itself"),
            ({"shared_settings": {"max_epoch": 1}}, "shared_settings sets 'max_epoch', which is no option of"),
            ({"overlays": ["none.json"]}, "overlays names 'none.json', but there is no such file in"),
        ],
        ids=str,
    )
    def test_options_that_would_do_nothing_are_refused(self, fail_config, tmp_path, settings, words):
        error = fail_config(BUNDLE, ["evaluate.json", "experiment.json"], output_dir=tmp_path, **settings)
        assert words in str(error)
        assert not list(tmp_path.rglob("*.pt"))

    def test_overlays_reach_the_trainings(self, fail_config, pictures, tmp_path, monkeypatch):
        """Without the package that the networks of this overlay need, whose message tells which one was asked for."""
        from monai.utils import module

        wanted = module.optional_import
        monkeypatch.setattr(
            "monai.utils.optional_import",
            lambda name, *args, **keys: (None, False) if name.startswith("segm") else wanted(name, *args, **keys),
        )
        error = fail_config(
            BUNDLE, ["evaluate.json", "experiment.json"], dataset_dir=pictures, output_dir=tmp_path, num_folds=2,
            seeds=[0], overlays=["encoders.json"], variants={"vgg16": {"network_pair": "Unet-vgg16_bn"}},
            **(SHORT | {"norm": "batch"}),
        )  # fmt: skip
        assert "network 'Unet-vgg16_bn' needs segmentation-models-pytorch" in str(error)

    @pytest.mark.parametrize(("percentages", "words"), [([], "percentages is []"), ([0.5, 2], "from 0 to 1")])
    def test_impossible_percentages_are_named(self, fail_config, tmp_path, percentages, words):
        names = ["evaluate.json", "experiment.json"]
        error = fail_config(BUNDLE, names, "sweep", percentages=percentages, output_dir=tmp_path)
        assert words in str(error)
