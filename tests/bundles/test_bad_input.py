"""Bad folders and training cases, in every bundle: one line that names the case, and nothing half written."""

import numpy as np
import pytest

from tests.bundles.refusals import kinds


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


def test_labels_without_foreground_leave_no_weights_and_no_bank(bundle, fail_config, make_dataset, shape, tmp_path):
    def empty(index, image, label):
        return {"labelsTr": (label * 0, np.eye(4))}

    folder = make_dataset(tmp_path / "data", **shape, edit=empty)
    settings = {"dataset_dir": folder, "output_dir": tmp_path / "out", "model_dir": tmp_path / "m"}
    error = fail_config(bundle, "train.json", **settings)
    assert kinds(error) >= {"LabelError", "ValueError"}
    assert "hold no foreground" in str(error)
    assert not list((tmp_path / "m").glob("*"))


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
