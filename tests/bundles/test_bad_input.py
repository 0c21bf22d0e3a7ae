"""Bad input to every bundle: one line that names the case and what to do, and nothing half written."""

import csv
import gzip
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from common.dicom.series import series_name


@pytest.fixture
def volumes(configs):
    if configs["train"]["spatial_dims"] != 3:
        pytest.skip("a 2-D bundle")


@pytest.fixture
def train_on(bundle, fail_config, tmp_path):
    """Trains on a folder, which must fail; returns the error after checking that no weights were left."""

    def start(folder, **settings):
        settings = {"dataset_dir": folder, "output_dir": tmp_path / "out", "model_dir": tmp_path / "m"} | settings
        error = fail_config(bundle, "train.json", **settings)
        assert not list(tmp_path.rglob("*.pt"))
        assert not leftovers(tmp_path)
        return error

    return start


@pytest.fixture
def infer_on(bundle, fail_config, trained, tmp_path):
    """Segments a folder, which must fail; returns the error."""

    def start(folder, **settings):
        settings = {"dataset_dir": folder, "output_dir": tmp_path / "out", "model_dir": trained.models} | settings
        return fail_config(bundle, "inference.json", **settings)

    return start


def leftovers(folder):
    """Files under temporary names."""
    return [path for path in folder.rglob("*") if path.name.startswith((".", "tmp"))]


def kinds(error):
    return {kind.__name__ for kind in type(error).__mro__}


def segment_with_failures(infer_on, tmp_path, broken):
    """Segments a folder of scans of which ``broken`` fail; returns case -> reason after checking all the rest."""
    error = infer_on(tmp_path / "scans")
    assert kinds(error) >= {"CasesFailedError", "RuntimeError"}
    assert f"{len(broken)} of " in str(error)
    assert "ood_report.csv" in str(error)
    with open(tmp_path / "out" / "ood_report.csv", newline="", encoding="utf-8") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    report = json.loads((tmp_path / "out" / "ood_report.json").read_text(encoding="utf-8"))
    assert len(report["rows"]) == len(rows)
    for name, row in rows.items():
        written = (tmp_path / "out" / name / f"{name}_seg.nii.gz").is_file()
        assert written != (name in broken), name
        assert bool(row["error"]) == (name in broken), row
    assert not leftovers(tmp_path)
    return {name: rows[name]["error"] for name in broken}


class TestFolders:
    @pytest.mark.parametrize("name", ["train.json", "inference.json", "evaluate.json"])
    def test_missing_dataset(self, bundle, fail_config, trained, tmp_path, name):
        settings = {"output_dir": tmp_path, "model_dir": trained.models}
        error = fail_config(bundle, name, dataset_dir=tmp_path / "nowhere", **settings)
        assert kinds(error) >= {"MissingDataError", "FileNotFoundError"}
        assert "nowhere does not exist" in str(error)

    @pytest.mark.parametrize("name", ["train.json", "inference.json", "evaluate.json"])
    def test_folder_without_images(self, bundle, fail_config, trained, tmp_path, name):
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "notes.txt").write_text("nothing here")
        error = fail_config(
            bundle, name, dataset_dir=tmp_path / "empty", output_dir=tmp_path / "out", model_dir=trained.models
        )
        assert "MissingDataError" in kinds(error)
        assert "empty holds no" in str(error)
        assert "dataset.json" in str(error) or "accepted are" in str(error)

    def test_listed_file_is_missing(self, make_dataset, train_on, shape, tmp_path):
        folder = make_dataset(tmp_path / "data", **shape)
        (file,) = (folder / "imagesTr").glob("case_2.*")
        file.unlink()
        error = train_on(folder)
        assert "1 file(s) that do not exist" in str(error)
        assert file.name in str(error)

    def test_one_training_case(self, make_dataset, train_on, shape, tmp_path):
        error = train_on(make_dataset(tmp_path / "data", 1, **shape))
        assert kinds(error) >= {"NotEnoughCasesError", "ValueError"}
        assert "add cases to dataset_dir" in str(error)

    def test_one_case_left_to_train_on(self, make_dataset, train_on, shape, judges, tmp_path):
        if not judges:
            pytest.skip("only a threshold needs two")
        error = train_on(make_dataset(tmp_path / "data", 2, **shape))
        assert "NotEnoughCasesError" in kinds(error)
        assert "1 training and 1 validation case(s)" in str(error)


def test_foreground_labels_of_another_dataset(train_on, dataset):
    error = train_on(dataset, foreground_labels={"nowhere": [1]})
    assert kinds(error) >= {"ConfigError", "ValueError"}
    assert f"foreground_labels names ['nowhere']; the data sets are ['{dataset.name}']" in str(error)


def test_labels_without_foreground_leave_no_weights_and_no_bank(
    bundle, fail_config, make_dataset, configs, shape, tmp_path
):
    def empty(index, image, label):
        return {"labelsTr": (label * 0, np.eye(4))}

    folder = make_dataset(tmp_path / "data", **shape, edit=empty)
    settings = {"dataset_dir": folder, "output_dir": tmp_path / "out", "model_dir": tmp_path / "m"}
    error = fail_config(bundle, "train.json", **settings)
    if "stages" in configs["train"]:
        # A bundle that counts patches or healthy slices knows before it trains.
        assert kinds(error) >= {"LabelError", "ValueError"}
        assert "training cases hold no foreground" in str(error)
    else:
        assert kinds(error) >= {"WeightsError", "RuntimeError"}
        assert "no validation gave a metric above 0" in str(error)
        assert "check that validation labels hold foreground" in str(error)
    assert not list((tmp_path / "m").iterdir())


def spoil(kind, image, label):
    """What is wrong with a training case: the arrays that differ."""
    shifted = np.eye(4)
    shifted[0, 3] = 2.5
    return {
        "shape": {"labelsTr": (label[:-1], np.eye(4))},
        "affine": {"labelsTr": (label, shifted)},
        "value": {"labelsTr": (label * 3, np.eye(4))},
        "nan": {"imagesTr": (np.where(image > 200, np.nan, image), np.eye(4))},
        "constant": {"imagesTr": (np.full_like(image, 7), np.eye(4))},
    }[kind]


@pytest.mark.parametrize(
    ("kind", "error_name", "words"),
    [
        ("shape", "LabelError", ("label of shape (19,", "image of shape (20,", "must be equal")),
        ("affine", "LabelError", ("different affines", "save the label in the image's geometry")),
        ("value", "LabelError", ("label holds [3", "accepted are [0, 1]", "correct the label")),
        ("nan", "ImageError", ("NaN or infinite voxels", "repair or exclude")),
        ("constant", "ImageError", ("every voxel is 7", "constant")),
    ],
)
@pytest.mark.tried(
    "Damaged and unusable scans",
    "Labels of another shape, place or value, and NaN or constant images, in training",
    "Training stops with one line that names the case, and leaves no weights.",
)
def test_bad_training_case(make_dataset, train_on, shape, tmp_path, kind, error_name, words):
    def edit(index, image, label):
        image = np.where(image > 170, 250, image) if kind == "nan" else image
        return spoil(kind, image, label) if index == 1 else {}

    folder = make_dataset(tmp_path / "data", **shape, edit=edit)
    error = train_on(folder)
    assert kinds(error) >= {error_name, "ValueError"}
    assert "case 'case_1'" in str(error)
    assert all(word in str(error) for word in words), error


def test_truncated_training_image(make_dataset, train_on, shape, tmp_path):
    folder = make_dataset(tmp_path / "data", **shape)
    (file,) = (folder / "imagesTr").glob("case_1.*")
    file.write_bytes(file.read_bytes()[:2000])
    error = train_on(folder)
    assert "ImageError" in kinds(error)
    assert "case 'case_1'" in str(error)
    assert "may be truncated: copy it again" in str(error)


def write_scan(scan, path):
    """Writes a NIfTI whose header is as it was set, which nibabel would correct."""
    scan.header["sform_code"], scan.header["magic"], scan.header["vox_offset"] = 2, b"n+1", 352
    content = scan.header.binaryblock + bytes(4) + np.asarray(scan.dataobj).tobytes(order="F")
    path.write_bytes(gzip.compress(content))


@pytest.mark.usefixtures("volumes")
@pytest.mark.tried(
    "Damaged and unusable scans",
    "NaN voxels, constant, sheared, complex and truncated images, in every bundle of volumes",
    "A row for each with the reason; the other scans are segmented.",
)
def test_broken_scans_do_not_stop_the_others(infer_on, make_scan, tmp_path):
    """Kinds of broken scans beside a good one, in one run."""
    folder = tmp_path / "scans"
    folder.mkdir()
    image = make_scan(0)[0]
    scans = {
        "good": image,
        "flat": image[:, :, 0],
        "thin": image[:, :, :1],
        "series": np.stack([image, image], axis=-1),
        "nan": np.where(np.arange(image.size).reshape(image.shape) == 5, np.nan, image),
        "infinite": np.where(np.arange(image.size).reshape(image.shape) < 3, np.inf, image),
        "constant": image * 0 + 4,
        "truncated": image,
        "flipped_bit": image,
        "complex": (image + 1j).astype(np.complex64),
        "sheared": image,
        "nowhere": image,
        "huge": image,
    }
    for name, array in scans.items():
        scan = nib.Nifti1Image(array, np.eye(4))
        scan.header["srow_x"] = {"sheared": [1, 0.4, 0, 0], "nowhere": [np.nan] * 4}.get(name, [1, 0, 0, 0])
        if name == "huge":
            scan.header["dim"][1:4] = 2000
        write_scan(scan, folder / f"{name}.nii.gz")
    file = folder / "truncated.nii.gz"
    file.write_bytes(file.read_bytes()[:3000])
    content = bytearray((folder / "flipped_bit.nii.gz").read_bytes())
    content[-6] ^= 1  # of the checksum, in front of the length
    (folder / "flipped_bit.nii.gz").write_bytes(content)
    (folder / "garbage.nrrd").write_bytes(b"no scan at all")
    reasons = segment_with_failures(infer_on, tmp_path, {"garbage", *scans} - {"good"})
    expected = {
        "flat": "takes 3-D images",
        "thin": "takes 3-D images",
        "series": "must be split first",
        "nan": "1 NaN or infinite voxels",
        "infinite": "3 NaN or infinite voxels",
        "constant": "every voxel is 4",
        "truncated": "copy it again",
        "flipped_bit": "its compressed content is not what was written",
        "complex": "holds complex numbers",
        "sheared": "axes that are not perpendicular",
        "nowhere": "geometry that is not finite",
        "huge": "declares 2000 x 2000 x 2000 voxels; accepted are 500000000 (max_voxels)",
        "garbage": "cannot be read (no NRRD file); copy it again",
    }
    for name, words in expected.items():
        assert reasons[name].startswith(f"case '{name}': "), reasons[name]
        assert words in reasons[name]
        assert "\n" not in reasons[name]


@pytest.mark.usefixtures("volumes")
class TestDicom:
    def test_bad_series_do_not_stop_the_others(self, infer_on, make_scan, write_series, tmp_path):
        image = make_scan(1, (16, 15, 9))[0]
        folder = tmp_path / "scans"
        write_series(folder / "good", image, uid="1.2.3.1")
        write_series(folder / "gap", image, uid="1.2.3.2", skip=(4,))
        write_series(folder / "mixed", image[:, :, :4], uid="1.2.3.3")
        write_series(folder / "mixed", image[:, :, :9], uid="1.2.3.3", tilt=0.5, skip=(0, 1, 2, 3))
        gap, mixed = series_name("1.2.3.2"), series_name("1.2.3.3")
        reasons = segment_with_failures(infer_on, tmp_path, {gap, mixed})
        assert "a slice is missing or the spacing varies: send the whole series" in reasons[gap]
        assert "slices of different orientation; export each orientation as a series of its own" in reasons[mixed]

    def test_two_series_in_one_folder_are_two_cases(
        self, bundle, run_config, trained, make_scan, write_series, tmp_path
    ):
        names = [series_name(f"1.2.3.{index}") for index in (1, 2)]
        for index in (1, 2):
            write_series(tmp_path / "scans" / "both", make_scan(index, (16, 15, 9))[0], uid=f"1.2.3.{index}")
        run_config(
            bundle, "inference.json", dataset_dir=tmp_path / "scans", model_dir=trained.models,
            output_dir=tmp_path / "out",
        )  # fmt: skip
        written = {path.name for path in (tmp_path / "out").rglob("*_seg.nii.gz")}
        assert written == {f"{name}_seg.nii.gz" for name in names}


class TestWeightsAndBank:
    @pytest.fixture
    def models(self, trained, tmp_path):
        return shutil.copytree(trained.models, tmp_path / "models")

    @pytest.fixture(autouse=True)
    def needs_bank(self, judges, request):
        if not judges and "bank" in request.node.name:
            pytest.skip("this bundle gives no verdict")

    @pytest.mark.parametrize("name", ["inference.json", "evaluate.json"])
    def test_missing_weights(self, bundle, fail_config, models, dataset, tmp_path, name):
        (models / "model.pt").unlink()
        error = fail_config(bundle, name, dataset_dir=dataset, output_dir=tmp_path / "out", model_dir=models)
        assert "no weights at" in str(error)
        assert "train first, or set model_dir" in str(error)

    def test_weights_of_another_network(self, infer_on, models, dataset):
        state = torch.load(models / "model.pt", weights_only=True)
        name = next(iter(state))
        torch.save(
            {key: value for key, value in state.items() if key != name} | {"other": torch.ones(2)}, models / "model.pt"
        )
        error = infer_on(dataset, model_dir=models)
        assert kinds(error) >= {"WeightsError", "RuntimeError"}
        assert "belongs to another network: 2 tensor(s) differ" in str(error)

    def test_truncated_weights(self, infer_on, models, dataset):
        content = (models / "model.pt").read_bytes()
        (models / "model.pt").write_bytes(content[: len(content) // 2])
        assert "copy it again or train anew" in str(infer_on(dataset, model_dir=models))

    def test_weights_that_would_run_code(self, infer_on, models, dataset, tmp_path):
        torch.save(Harmful(tmp_path / "harm"), models / "model.pt")
        text = str(infer_on(dataset, model_dir=models))
        assert "cannot be read as weights (it is damaged, or holds more than tensors" in text
        assert "weights_only" not in text
        assert not (tmp_path / "harm").exists()

    @pytest.mark.parametrize("name", ["inference.json", "evaluate.json"])
    def test_missing_bank(self, bundle, fail_config, models, dataset, tmp_path, name):
        (models / "signature_bank.npz").unlink()
        error = fail_config(bundle, name, dataset_dir=dataset, output_dir=tmp_path / "out", model_dir=models)
        assert "no signature bank at" in str(error)
        assert "run fit_bank" in str(error)
        assert not list((tmp_path / "out").rglob("*_seg*"))

    @pytest.mark.tried(
        "Archives and weights",
        "A bank that was fitted with other weights, in every bundle",
        "One line; no verdict is drawn from it.",
    )
    def test_bank_of_other_weights(self, infer_on, models, dataset, tmp_path):
        state = torch.load(models / "model.pt", weights_only=True)
        torch.save({key: value * 1.01 for key, value in state.items()}, models / "model.pt")
        error = infer_on(dataset, model_dir=models)
        assert kinds(error) >= {"BankMismatchError", "BankError", "ValueError"}
        assert "weights_digest is" in str(error)
        assert "refit it with" in str(error)
        assert not list((tmp_path / "out").rglob("*_seg*"))

    def test_bank_of_another_preprocessing(self, infer_on, models, dataset, configs):
        if "hounsfield_window" not in configs["inference"]:
            pytest.skip("no setting of the preprocessing to change")
        error = infer_on(dataset, model_dir=models, hounsfield_window=[-500, 500])
        assert "preprocessing_digest is" in str(error)

    @pytest.mark.parametrize("name", ["roi_size", "overlap", "divisor"])
    def test_bank_of_another_window(self, infer_on, models, dataset, configs, name, tmp_path):
        other = {
            "roi_size": [16] * configs["inference"]["spatial_dims"],
            "overlap": 0.5,
            "divisor": 2 * configs["inference"]["divisor"],
        }
        error = infer_on(dataset, model_dir=models, **{name: other[name]})
        assert "BankMismatchError" in kinds(error)
        value = tuple(other[name]) if name == "roi_size" else other[name]
        assert f"{name} is {value}, the bank was fitted with" in str(error)
        assert not list((tmp_path / "out").rglob("*_seg*"))

    def test_truncated_bank(self, infer_on, models, dataset):
        content = (models / "signature_bank.npz").read_bytes()
        (models / "signature_bank.npz").write_bytes(content[:300])
        error = infer_on(dataset, model_dir=models)
        assert "BankError" in kinds(error)
        assert "not a readable signature bank" in str(error)


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


class TestOutput:
    @pytest.mark.parametrize("name", ["train.json", "inference.json", "evaluate.json"])
    def test_unwritable_folder(self, bundle, fail_config, trained, dataset, tmp_path, name):
        (tmp_path / "file").write_text("no folder")
        settings = {"dataset_dir": dataset, "model_dir": trained.models, "max_epochs": 1}
        if name != "train.json":
            del settings["max_epochs"]
        error = fail_config(bundle, name, output_dir=tmp_path / "file" / "out", **settings)
        assert kinds(error) >= {"OutputError", "OSError"}
        assert "cannot write" in str(error)
        assert "choose another output_dir" in str(error)

    def test_resume_without_a_checkpoint(self, train_on, dataset):
        assert "checkpoint.pt" in str(train_on(dataset, resume=True))

    def test_no_validation_would_take_place(self, train_on, dataset):
        error = train_on(dataset, max_epochs=1, val_interval=3)
        assert "val_interval is 3 with max_epochs 1" in str(error)
