"""What ``denoising_pretrain`` promises of its results: slices of all kinds, maps, measures, curves."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.bundles.denoising_pretrain.spots import PATIENTS, SHORT, SLICES, write_slices, write_volumes


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    return write_volumes(tmp_path_factory.mktemp("volumes") / "spots")


class TestSlices:
    def test_volumes_are_trained_on_as_slices(self, train, volumes, caplog, read_json):
        caplog.set_level("INFO")
        folder = train(dataset_dir=volumes)
        assert f"{PATIENTS - 1} slice(s) are zero everywhere" in caplog.text
        assert f"fine-tuning on {2 * SLICES} slices of 2 patient(s)" in caplog.text
        assert (
            sorted(name for part in read_json(folder / "split.json").values() for name in part.get("spots", ()))
            == [f"v{n}" for n in range(PATIENTS)]
            or len(read_json(folder / "split.json")["train"]["spots"]) == (PATIENTS - 1) * SLICES
        )

    def test_volumes_are_segmented_as_volumes(self, bundle_folder, run_config, volumes, trained, tmp_path, read_table):
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
        rows = read_table(tmp_path / "ood_report.csv")
        assert [row["image"] for row in rows] == [
            f"v{n}_s{m:03d}" for n in range(PATIENTS) for m in range(1, SLICES + 1)
        ]
        assert all(row["error"] == "" and row["is_ood"] in ("True", "False") for row in rows)
        assert not list(tmp_path.rglob("*.png")) or {path.name for path in tmp_path.rglob("*.png")} == {"gallery.png"}

    def test_slices_in_3d_are_volumes(self, bundle_folder, run_config, make_dataset, tmp_path, read_json):
        data = make_dataset(tmp_path / "organ", 4)
        given = {"dataset_dir": data, "model_dir": tmp_path / "m", "roi_size": [16, 16, 16], "out_channels": 2}
        short = {key: SHORT[key] for key in ("batch_size", "samples_per_epoch", "pretrain_epochs", "max_epochs")}
        run_config(bundle_folder, ["train.json", "volumes.json"], output_dir=tmp_path / "out", **given, **short)
        assert read_json(tmp_path / "out" / "localization.json")["patients"] == 1
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

    def test_empty_slice_is_a_row_with_the_reason(self, bundle_folder, fail_config, trained, tmp_path, read_table):
        def edit(patient, number, image, label):
            return (image * 0 if (patient, number) == (0, 0) else image), label

        data = write_slices(tmp_path / "spots", edit=edit, patients=1)
        error = fail_config(
            bundle_folder, "inference.json", dataset_dir=data, model_dir=trained / "m", output_dir=tmp_path / "out",
            roi_size=SHORT["roi_size"],
        )  # fmt: skip
        assert "1 of 4 case(s) failed" in str(error)
        rows = {row["image"]: row["error"] for row in read_table(tmp_path / "out" / "ood_report.csv")}
        assert "every voxel is 0" in rows.pop("p0_s0")
        assert set(rows.values()) == {""}


@pytest.fixture(scope="module")
def evaluated(bundle_folder, run_config, slices, trained, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluated")
    run_config(
        bundle_folder, "evaluate.json", pictures=True, dataset_dir=slices, output_dir=output, model_dir=trained / "m",
        roi_size=SHORT["roi_size"], min_component_size=2,
    )  # fmt: skip
    return output


class TestEvaluation:
    def test_both_are_measured_on_the_same_voxels(self, evaluated, read_json):
        report = read_json(evaluated / "localization.json")
        assert report["network"]["prevalence"] == report["denoiser"]["prevalence"] > 0
        assert report["denoiser"]["patients"] == PATIENTS
        assert (evaluated / "anomaly_maps.png").read_bytes().startswith(b"\x89PNG")

    def test_dice_per_patient_follows_from_the_confusion_of_its_slices(self, evaluated, read_json, read_table):
        """Two independent ways to the same numbers: the slices of a patient put together, and the whole set."""
        rows = read_table(evaluated / "patients.csv")
        assert [row["patient"] for row in rows] == [f"p{n}" for n in range(PATIENTS)]
        found = read_json(evaluated / "localization.json")["network"]["segmentation"]["dice_per_patient"]
        assert found["n"] == PATIENTS
        assert {row["patient"]: float(row["dice"]) for row in rows} == pytest.approx(found["values"])
        assert found["mean"] == pytest.approx(np.mean([float(row["dice"]) for row in rows]))


# Its processes are forked from the server that leaves pictures blank.
@pytest.mark.usefixtures("start_python")
class TestExperiment:
    def test_arms_and_numbers_of_patients_share_a_denoiser(
        self, bundle_folder, run_config, slices, tmp_path, read_table
    ):
        """With two folds and two seeds, every patient is tested once; without labels there is the denoiser alone."""
        arms = {"scratch": [{"pretrained": False, "labeled": [1], "seeds": [0]}], "pretrained": []}
        settings = SHORT | {"network_def#features": [4, 8, 8, 8], "val_fraction": 0.2, "stages.bank": False}
        run_config(
            bundle_folder, "experiment.json", pictures=True, dataset_dir=slices, output_dir=tmp_path,
            seeds=[0, 1], num_folds=2, one_fold_per_seed=True, labeled={"num_labeled_patients": [0, 1]}, arms=arms,
            settings=settings,
        )  # fmt: skip
        rows = read_table(tmp_path / "patients.csv")
        for labeled in "01":
            tested = [
                row["case"]
                for row in rows
                if (row["arm"], row["labeled"], row["metric"]) == ("pretrained", labeled, "ap")
            ]
            assert tested == ["", ""]
        assert {(row["arm"], row["labeled"]) for row in rows} == {
            ("pretrained", "0"), ("pretrained", "1"), ("scratch", "1"),
        }  # fmt: skip
        found = {row["case"] for row in rows if row["arm"] == "pretrained" and row["metric"] == "dsc"}
        assert len(found - {""}) == PATIENTS
        assert "" in found, "Dice over all patients together"
        alone = {row["metric"] for row in rows if row["arm"] == "pretrained" and row["metric"].startswith("ap_")}
        assert alone == {"ap_denoiser", "ap_mean_of_channels", "ap_pca", "ap_atlas"} | {
            f"ap_{how}_{n}" for how in ("channel", "brighter_channel") for n in "012"
        }
        assert not any(row["metric"] == "ap_denoiser" for row in rows if row["arm"] == "scratch")
        logs = "".join(file.read_text() for file in tmp_path.rglob("log.txt"))
        assert logs.count("stage pretrain: starts") == 2, "one denoiser for each seed"
        assert not list(tmp_path.rglob("signature_bank.npz")), "nothing asks for a verdict"
        assert (tmp_path / "report" / "curve_labeled_spots.png").read_bytes().startswith(b"\x89PNG")
