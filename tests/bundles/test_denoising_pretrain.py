"""What ``denoising_pretrain`` promises beyond the contract: stages, few labels, slices of all kinds, maps, curves."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

BUNDLE = "denoising_pretrain"
pytestmark = pytest.mark.xdist_group(BUNDLE)
SHORT = {
    "max_epochs": 1,
    "pretrain_epochs": 1,
    "batch_size": 4,
    "samples_per_epoch": 8,
    "learning_rate": 0.01,
    "pretrain_rate": 0.01,
    "roi_size": [32, 32],
    "healthy": "labels",
    "min_component_size": 2,
}
STAGES = ("pretrain", "localize", "finetune")
PATIENTS, SLICES = 5, 4


def draw(patient, number, size=(40, 36)):
    """A disc in three channels; inner slices have a bright spot, which the label holds."""
    rng = np.random.default_rng([patient, number])
    x, y = np.mgrid[: size[0], : size[1]]
    disc = (x - 20) ** 2 + (y - 18) ** 2 < 200
    label = ((x - 16 - patient) ** 2 + (y - 18) ** 2 < 12) & (number in (1, 2))
    image = (
        (disc * 90)[..., None]
        + label[..., None] * np.array([0, 80, 30])
        + rng.normal(0, 4, (*size, 3)) * disc[..., None]
    )
    return image.clip(0, 255).astype(np.uint8), label.astype(np.uint8)


def write_slices(folder, *, edit=None, patients=PATIENTS):
    """A folder in the layout of the 2-D sets; ``edit(patient, number, image, label)`` may change both."""
    items = []
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for patient in range(patients):
        for number in range(SLICES):
            image, label = draw(patient, number)
            if edit:
                image, label = edit(patient, number, image, label)
            name = f"p{patient}_s{number}.png"
            Image.fromarray(image).save(folder / "images" / name)
            Image.fromarray(label).save(folder / "masks" / name)
            item = {"image": f"./images/{name}", "label": f"./masks/{name}", "patient": f"p{patient}", "slice": number}
            items.append(item)
    listing = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "spot"}, "training": items}
    (folder / "dataset.json").write_text(json.dumps(listing))
    return folder


def write_volumes(folder):
    """The same patients as volumes of several channels, the first and last slices empty, axes turned."""
    items = []
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    affine = np.array([[0, -1.0, 0, 0], [-1, 0, 0, 0], [0, 0, 2.5, 0], [0, 0, 0, 1]])
    for patient in range(PATIENTS):
        slices = [draw(patient, number) for number in range(SLICES)]
        image = np.stack([np.zeros_like(slices[0][0]), *(image for image, _ in slices)], axis=2).astype(np.float32)
        label = np.stack([np.zeros_like(slices[0][1]), *(label for _, label in slices)], axis=2)
        for part, array in (("imagesTr", image), ("labelsTr", label)):
            nib.save(nib.Nifti1Image(array, affine), folder / part / f"v{patient}.nii.gz")
        items.append({"image": f"./imagesTr/v{patient}.nii.gz", "label": f"./labelsTr/v{patient}.nii.gz"})
    listing = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "spot"}, "training": items}
    (folder / "dataset.json").write_text(json.dumps(listing))
    return folder


@pytest.fixture(scope="module")
def bundle_folder(repository):
    return repository / "bundles" / BUNDLE


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    return write_slices(tmp_path_factory.mktemp("data") / "spots")


@pytest.fixture(scope="module")
def trained(bundle_folder, slices, run_config, tmp_path_factory):
    """A whole run on two labeled patients."""
    folder = tmp_path_factory.mktemp("trained")
    given = SHORT | {"dataset_dir": slices, "output_dir": folder, "model_dir": folder / "m"}
    run_config(bundle_folder, "train.json", num_labeled_patients=2, **given)
    return folder


@pytest.fixture
def ill(tmp_path):
    """Slices that all show something."""

    def edit(patient, number, image, label):
        label = label.copy()
        label[18:21, 18:21] = 1
        return image, label

    return write_slices(tmp_path / "ill", edit=edit)


@pytest.fixture
def train(bundle_folder, slices, run_config, tmp_path):
    """Trains with short settings below ``tmp_path``; returns the output folder."""

    def start(run_id="run", *, names="train.json", output="out", **settings):
        folder = tmp_path / output
        given = {"dataset_dir": slices, "output_dir": folder, "model_dir": folder / "m", "num_labeled_patients": 2}
        run_config(bundle_folder, names, run_id, **(given | SHORT | settings))
        return folder

    return start


@pytest.fixture
def fail(bundle_folder, fail_config, tmp_path):
    """Trains on a folder, which must fail and leave no weights; returns the error."""

    def start(folder, run_id="run", **settings):
        given = {"dataset_dir": folder, "output_dir": tmp_path / "out", "model_dir": tmp_path / "m"} | SHORT
        error = fail_config(bundle_folder, "train.json", run_id, **(given | settings))
        assert not list(tmp_path.rglob("*.pt"))
        return error

    return start


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def weights(path):
    return torch.load(path, weights_only=True)


def assert_same_weights(first, second):
    torch.testing.assert_close(weights(first), weights(second), rtol=0, atol=0)


class TestStages:
    def test_whole_run_writes_what_the_stages_say(self, trained):
        files = {path.relative_to(trained).as_posix() for path in trained.rglob("*")}
        own = {"metrics.json", "training.png", "checkpoint.pt"}
        assert files >= own | {f"pretrain/{name}" for name in (*own, "denoiser.pt")}
        assert files >= {"localization.json", "anomaly_maps.png", "split.json"}
        assert files >= {"m/model.pt", "m/denoiser.pt", "m/signature_bank.npz"}
        assert_same_weights(trained / "m" / "denoiser.pt", trained / "pretrain" / "denoiser.pt")

    def test_denoiser_is_measured_before_any_label_is_learned(self, trained):
        report = read(trained / "localization.json")
        assert report["part"] == "validation"
        assert (report["patients"], report["slices"]) == (1, SLICES)
        assert 0 < report["prevalence"] < report["best_dice"] <= 1
        assert 0 < report["average_precision"] <= 1
        assert "chosen by their labels" in report["threshold_is"]
        assert set(report["intensity"]) == {"mean of channels", "channel 0", "channel 1", "channel 2"}
        assert (
            report["intensity"]["channel 1"]["average_precision"]
            > report["intensity"]["channel 0"]["average_precision"]
        )

    def test_stages_alone_give_the_same_as_the_whole(self, train, trained):
        for stage in STAGES:
            folder = train(stage)
        for name in ("m/model.pt", "m/denoiser.pt"):
            assert_same_weights(folder / name, trained / name)
        assert (folder / "m/signature_bank.npz").read_bytes() == (trained / "m/signature_bank.npz").read_bytes()

    def test_second_run_is_skipped_and_a_changed_option_is_not(self, train, caplog):
        caplog.set_level("INFO")
        train()
        caplog.clear()
        train()
        assert [stage for stage in STAGES if f"stage {stage}: skipped" in caplog.text] == list(STAGES)
        caplog.clear()
        train(num_labeled_patients=1)
        assert [stage for stage in STAGES if f"stage {stage}: skipped" in caplog.text] == ["pretrain", "localize"]
        assert "stage finetune: starts (labeled changed)" in caplog.text
        caplog.clear()
        train("pretrain", noise_sd=0.3)
        assert "stage pretrain: starts (settings changed)" in caplog.text

    def test_stage_before_must_be_done(self, bundle_folder, fail_config, slices, tmp_path):
        given = SHORT | {"dataset_dir": slices, "output_dir": tmp_path, "model_dir": tmp_path / "m"}
        for stage in ("localize", "finetune"):
            error = fail_config(bundle_folder, "train.json", stage, **given)
            assert "stage pretrain is not done for these inputs" in str(error)

    def test_runs_may_share_a_denoiser(self, train, trained, caplog):
        caplog.set_level("INFO")
        folder = train(pretrain_dir=trained, num_labeled_patients=1)
        assert "stage pretrain: skipped" in caplog.text, "labels of patients do not matter to the denoiser"
        assert not (folder / "pretrain").exists()
        assert_same_weights(folder / "m" / "denoiser.pt", trained / "m" / "denoiser.pt")


class TestFineTuning:
    def test_from_scratch_takes_the_same_schedule_without_a_denoiser(self, train, trained, caplog):
        caplog.set_level("INFO")
        folder = train(pretrained=False)
        assert "stage pretrain" not in caplog.text
        assert not (folder / "m" / "denoiser.pt").exists()
        first, second = (read(path / "metrics.json")["epochs"] for path in (folder, trained))
        assert [epoch["learning_rate"] for epoch in first] == [epoch["learning_rate"] for epoch in second]
        assert [len(epoch) for epoch in first] == [len(epoch) for epoch in second]
        pair = weights(folder / "m" / "model.pt"), weights(trained / "m" / "model.pt")
        assert any(not torch.equal(pair[0][name], pair[1][name]) for name in pair[0])

    def test_given_weights_are_the_start_and_leave_nothing_to_pre_train(self, train, trained, ill, caplog):
        """Without a healthy slice, too; as MONAI Label has it, which loads the weights that are there."""
        caplog.set_level("INFO")
        given = trained / "m" / "model.pt"
        folder = train(dataset_dir=ill, initial_weights=given, learning_rate=0.0)
        assert f"fine-tuning starts from {given}: no denoiser is trained" in caplog.text
        assert "stage pretrain" not in caplog.text
        assert not list(folder.rglob("denoiser.pt"))
        first, second = weights(given), weights(folder / "m" / "model.pt")
        assert all(torch.equal(first[name], second[name]) for name in first if name.endswith(("weight", "bias")))

    def test_from_scratch_needs_no_healthy_slice(self, train, ill):
        assert (train(dataset_dir=ill, pretrained=False) / "m" / "model.pt").is_file()

    def test_fine_tuning_starts_from_the_denoiser(self, train):
        folder = train(learning_rate=0.0)
        denoiser, network = weights(folder / "m" / "denoiser.pt"), weights(folder / "m" / "model.pt")
        # Running means go on by themselves.
        learned = [name for name in network if not name.startswith("head.") and name.endswith(("weight", "bias"))]
        assert len(learned) > 20
        for name in learned:
            torch.testing.assert_close(network[name], denoiser[name], rtol=0, atol=0)
        assert network["head.weight"].shape[0] == 2
        assert denoiser["head.weight"].shape[0] == 3

    def test_without_labels_the_denoiser_is_the_result(self, train, caplog):
        caplog.set_level("INFO")
        folder = train(num_labeled_patients=0)
        assert "no labeled patient: the denoiser's anomaly score is the result" in caplog.text
        assert (folder / "m" / "denoiser.pt").is_file()
        assert (folder / "localization.json").is_file()
        assert not (folder / "m" / "model.pt").exists()

    def test_several_classes(self, train, tmp_path):
        def edit(patient, number, image, label):
            return image, label * (1 + number % 2)

        data = write_slices(tmp_path / "classes", edit=edit)
        listing = read(data / "dataset.json") | {"labels": {"0": "background", "1": "even", "2": "odd"}}
        (data / "dataset.json").write_text(json.dumps(listing))
        folder = train(dataset_dir=data, out_channels=3)
        assert weights(folder / "m" / "model.pt")["head.weight"].shape[0] == 3

    @pytest.mark.parametrize(
        "settings", [{"norm": "batch"}, {"norm": "none"}, {"residual": True}, {"healthy": "all"}], ids=str
    )
    def test_every_option_trains(self, train, settings):
        assert (train(**settings) / "m" / "signature_bank.npz").is_file()


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    return write_volumes(tmp_path_factory.mktemp("volumes") / "spots")


class TestSlices:
    def test_volumes_are_trained_on_as_slices(self, train, volumes, caplog):
        caplog.set_level("INFO")
        folder = train(dataset_dir=volumes)
        assert f"{PATIENTS - 1} slice(s) are zero everywhere" in caplog.text
        assert f"fine-tuning on {2 * SLICES} slices of 2 patient(s)" in caplog.text
        assert (
            sorted(name for part in read(folder / "split.json").values() for name in part.get("spots", ()))
            == [f"v{n}" for n in range(PATIENTS)]
            or len(read(folder / "split.json")["train"]["spots"]) == (PATIENTS - 1) * SLICES
        )

    def test_volumes_are_segmented_as_volumes(self, bundle_folder, run_config, volumes, trained, tmp_path):
        run_config(
            bundle_folder, "inference.json", dataset_dir=volumes, model_dir=trained / "m", output_dir=tmp_path,
            anomaly_map=True, roi_size=SHORT["roi_size"],
        )  # fmt: skip
        for number in range(PATIENTS):
            source = nib.load(volumes / "imagesTr" / f"v{number}.nii.gz")
            for kind, dtype in (("seg", np.uint8), ("anomaly", np.float32)):
                written = nib.load(tmp_path / f"v{number}" / f"v{number}_{kind}.nii.gz")
                assert written.shape == source.shape[:3]
                assert written.get_data_dtype() == dtype
                np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)
            assert not written.get_fdata()[:, :, 0].any(), "an empty slice stays background"
        rows = table(tmp_path / "ood_report.csv")
        assert [row["image"] for row in rows] == [
            f"v{n}_s{m:03d}" for n in range(PATIENTS) for m in range(1, SLICES + 1)
        ]
        assert all(row["error"] == "" and row["is_ood"] in ("True", "False") for row in rows)
        assert not list(tmp_path.rglob("*.png")) or {path.name for path in tmp_path.rglob("*.png")} == {"gallery.png"}

    def test_slices_in_3d_are_volumes(self, bundle_folder, run_config, make_dataset, tmp_path):
        data = make_dataset(tmp_path / "organ", 4)
        given = {"dataset_dir": data, "model_dir": tmp_path / "m", "roi_size": [16, 16, 16], "out_channels": 2}
        short = {key: SHORT[key] for key in ("batch_size", "samples_per_epoch", "pretrain_epochs", "max_epochs")}
        run_config(bundle_folder, ["train.json", "volumes.json"], output_dir=tmp_path / "out", **given, **short)
        assert read(tmp_path / "out" / "localization.json")["patients"] == 1
        run_config(bundle_folder, ["inference.json", "volumes.json"], output_dir=tmp_path / "seg", **given)
        assert (tmp_path / "seg" / "case_0" / "case_0_seg.nii.gz").is_file()


class TestInference:
    def infer(self, run_config, folder, trained, output, **settings):
        run_config(
            folder, "inference.json", model_dir=trained / "m", output_dir=output, roi_size=SHORT["roi_size"], **settings
        )

    def test_anomaly_map_comes_on_request(self, bundle_folder, run_config, slices, trained, tmp_path):
        self.infer(run_config, bundle_folder, trained, tmp_path / "without", dataset_dir=slices)
        assert not list((tmp_path / "without").rglob("*anomaly*"))
        self.infer(run_config, bundle_folder, trained, tmp_path / "with", dataset_dir=slices, anomaly_map=True)
        for folder in ("with", "without"):
            with Image.open(tmp_path / folder / "p0_s1" / "p0_s1_seg.png") as picture:
                assert picture.size == (36, 40)
        score = nib.load(tmp_path / "with" / "p0_s1" / "p0_s1_anomaly.nii.gz").get_fdata()
        assert sorted(np.squeeze(score).shape) == [36, 40]
        assert (score >= 0).all()
        assert score.any()

    def test_anomaly_map_needs_a_denoiser(self, bundle_folder, fail_config, slices, trained, tmp_path):
        models = tmp_path / "m"
        models.mkdir()
        for name in ("model.pt", "signature_bank.npz"):
            (models / name).write_bytes((trained / "m" / name).read_bytes())
        error = fail_config(
            bundle_folder, "inference.json", dataset_dir=slices, model_dir=models, output_dir=tmp_path / "out",
            roi_size=SHORT["roi_size"], anomaly_map=True,
        )  # fmt: skip
        assert "denoiser.pt" in str(error)
        assert not list((tmp_path / "out").rglob("*_seg*"))

    def test_empty_slice_is_a_row_with_the_reason(self, bundle_folder, fail_config, trained, tmp_path):
        def edit(patient, number, image, label):
            return (image * 0 if (patient, number) == (0, 0) else image), label

        data = write_slices(tmp_path / "spots", edit=edit, patients=1)
        error = fail_config(
            bundle_folder, "inference.json", dataset_dir=data, model_dir=trained / "m", output_dir=tmp_path / "out",
            roi_size=SHORT["roi_size"],
        )  # fmt: skip
        assert "1 of 4 case(s) failed" in str(error)
        rows = {row["image"]: row["error"] for row in table(tmp_path / "out" / "ood_report.csv")}
        assert "every voxel is 0" in rows.pop("p0_s0")
        assert set(rows.values()) == {""}


@pytest.fixture(scope="module")
def evaluated(bundle_folder, run_config, slices, trained, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluated")
    run_config(
        bundle_folder, "evaluate.json", dataset_dir=slices, output_dir=output, model_dir=trained / "m",
        roi_size=SHORT["roi_size"], min_component_size=2,
    )  # fmt: skip
    return output


class TestEvaluation:
    def test_both_are_measured_on_the_same_voxels(self, evaluated):
        report = read(evaluated / "localization.json")
        assert report["network"]["prevalence"] == report["denoiser"]["prevalence"] > 0
        assert report["denoiser"]["patients"] == PATIENTS
        assert (evaluated / "anomaly_maps.png").read_bytes().startswith(b"\x89PNG")

    def test_dice_per_patient_follows_from_the_confusion_of_its_slices(self, evaluated):
        """Two independent ways to the same numbers: the slices of a patient put together, and the whole set."""
        rows = table(evaluated / "patients.csv")
        assert [row["patient"] for row in rows] == [f"p{n}" for n in range(PATIENTS)]
        found = read(evaluated / "localization.json")["network"]["segmentation"]["dice_per_patient"]
        assert found["n"] == PATIENTS
        assert {row["patient"]: float(row["dice"]) for row in rows} == pytest.approx(found["values"])
        assert found["mean"] == pytest.approx(np.mean([float(row["dice"]) for row in rows]))


class TestLearningCurve:
    def test_one_command_writes_table_and_figure_and_goes_on(self, bundle_folder, run_config, slices, tmp_path, caplog):
        caplog.set_level("INFO")
        names = ["evaluate.json", "learning_curve.json"]
        given = SHORT | {"dataset_dir": slices, "output_dir": tmp_path, "counts": [0, 1, 9], "seeds": [0, 1]}
        given |= {"num_folds": 2, "val_fraction": 0.2, "val_interval": 1, "network_def#features": [4, 8, 8, 8]}
        run_config(bundle_folder, names, **given)
        report = read(tmp_path / "learning_curve.json")
        assert report["left_out"] == [9]
        assert "counts [9] are left out: " in caplog.text
        rows = table(tmp_path / "learning_curve.csv")
        assert [(row["patients"], row["start"]) for row in rows] == [
            ("0", "pre-trained"), ("1", "pre-trained"), ("1", "from scratch"),
        ]  # fmt: skip
        assert all(row["runs"] == "2" for row in rows)
        assert rows[1]["n"] == str(PATIENTS), "with two folds and two seeds, every patient is tested once"
        assert (tmp_path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
        assert caplog.text.count("stage pretrain: starts") == 2, "one denoiser for each seed"
        caplog.clear()
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("pretrain/*.pt")}
        run_config(bundle_folder, names, **given)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("pretrain/*.pt")} == before
        assert "starts" not in caplog.text

    @pytest.mark.parametrize("counts", [[], [-1]])
    def test_impossible_counts_are_named(self, bundle_folder, fail_config, tmp_path, counts):
        names = ["evaluate.json", "learning_curve.json"]
        assert "counts is" in str(fail_config(bundle_folder, names, counts=counts, output_dir=tmp_path))


class TestBadInput:
    def test_no_healthy_slices(self, fail, ill):
        error = fail(ill)
        assert "slices is healthy: every label holds foreground" in str(error)
        assert "set healthy to 'all'" in str(error)

    def test_fewer_patients_than_asked(self, fail, slices):
        assert "num_labeled_patients is 9, but 4 patient(s) are there to train on" in str(
            fail(slices, num_labeled_patients=9)
        )

    def test_channels_missing_in_a_file(self, fail, tmp_path):
        def edit(patient, number, image, label):
            return (image[..., 0] if (patient, number) == (2, 1) else image), label

        error = fail(write_slices(tmp_path / "gray", edit=edit))
        assert "case 'p2_s1'" in str(error)
        assert "has 1 channels; this bundle takes 3" in str(error)

    def test_channel_missing_in_a_patient_stays_zero(self, train, tmp_path, caplog):
        def edit(patient, number, image, label):
            image = image.copy()
            image[..., 2] *= patient != 1
            return image, label

        folder = train(dataset_dir=write_slices(tmp_path / "without", edit=edit))
        assert "channel(s) [2] hold nothing in the whole scan and stay zero" in caplog.text
        assert all(value.isfinite().all() for value in weights(folder / "m" / "model.pt").values())

    def test_slices_of_different_size_and_an_empty_one_train(self, train, tmp_path, caplog):
        caplog.set_level("INFO")

        def edit(patient, number, image, label):
            cut = (slice(0, 40 - 2 * patient), slice(number, 36))
            return (image * (patient != 3 or number > 0))[cut], label[cut]

        folder = train(dataset_dir=write_slices(tmp_path / "sizes", edit=edit))
        assert "1 slice(s) are zero everywhere and are left out" in caplog.text
        assert (folder / "m" / "signature_bank.npz").is_file()

    def test_nothing_to_do(self, fail, slices):
        assert "nothing would be trained" in str(fail(slices, pretrained=False, num_labeled_patients=0))
        assert "nothing would be trained" in str(fail(slices, "pretrain", pretrained=False))

    def test_healthy_file_that_does_not_exist(self, fail, slices):
        assert "healthy is 'nowhere.json', which is no JSON file" in str(fail(slices, healthy="nowhere.json"))
