import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from common.data.cases import decathlon_cases
from common.data.scans import phantom_test_cases
from common.errors import ConfigError
from common.phantoms.volumes import IMBALANCED_TASKS, PHANTOM_TASKS, TASKS, phantom_dataset, phantom_scan
from common.transforms import CheckImaged, CheckLabeld, LoadScand

BOTH = pytest.mark.parametrize("spatial_dims", [2, 3])
EVERY = pytest.mark.parametrize("task", TASKS)


@EVERY
@BOTH
def test_same_seed_gives_the_same_scan_and_another_seed_or_number_another(task, spatial_dims):
    image, label = phantom_scan(task, 1, spatial_dims=spatial_dims, seed=5)
    again = phantom_scan(task, 1, spatial_dims=spatial_dims, seed=5)
    assert_array_equal(image, again[0])
    assert_array_equal(label, again[1])
    for index, seed in ((1, 6), (2, 5)):
        assert not np.array_equal(image, phantom_scan(task, index, spatial_dims=spatial_dims, seed=seed)[0])


@EVERY
@BOTH
def test_scan_has_the_size_classes_and_types_of_its_task(task, spatial_dims):
    image, label = phantom_scan(task, 0, spatial_dims=spatial_dims)
    assert (image.dtype, label.dtype) == (np.float32, np.uint8)
    assert image.shape == label.shape
    assert image.ndim == spatial_dims
    assert all(abs(size - TASKS[task].size) <= 4 for size in image.shape)
    assert np.unique(label).tolist() == ([0, 1, 2] if task == "pair_mr" else [0, 1])
    assert 0.01 < (label > 0).mean() < 0.5


@EVERY
@BOTH
def test_intensities_are_those_of_the_modality(task, spatial_dims):
    image, label = phantom_scan(task, 0, spatial_dims=spatial_dims)
    assert np.isfinite(image).all()
    if TASKS[task].modality == "CT":
        assert -1100 < image.min() < -900
        assert 0 < np.median(image[label > 0]) < 500
    else:
        assert image.min() >= 0
    assert np.median(image[label > 0]) > np.median(image[label == 0])


def test_unknown_task_is_answered_with_the_tasks_there_are():
    with pytest.raises(ConfigError, match="'liver' does not exist; accepted are pair_mr, ellipsoid_ct"):
        phantom_scan("liver", 0)


@BOTH
def test_folder_of_phantoms_loads(tmp_path, spatial_dims):
    folder = phantom_dataset(tmp_path, "pair_mr", 2, spatial_dims=spatial_dims, seed=1)
    cases = decathlon_cases(folder)
    assert [(case["case"], case["task"], case["modality"], case["classes"]) for case in cases] == [
        (f"pair_mr_00{index}", "pair_mr", "MR", [0, 1, 2]) for index in range(2)
    ]
    for index, case in enumerate(cases):
        loaded = LoadScand(["image", "label"])(case)
        CheckLabeld("label")(CheckImaged("image", spatial_dims)(loaded))
        image, label = phantom_scan("pair_mr", index, spatial_dims=spatial_dims, seed=1)
        assert_array_equal(loaded["image"][0].numpy(), image)
        assert_array_equal(loaded["label"][0].numpy(), label)


def test_folder_that_is_there_is_not_written_again(tmp_path):
    folder = phantom_dataset(tmp_path, "tube_ct", 1, spatial_dims=2)
    (folder / "mark").touch()
    assert phantom_dataset(tmp_path, "tube_ct", 1, spatial_dims=2) == folder
    assert (folder / "mark").is_file()
    assert [path.name for path in folder.parent.iterdir()] == ["tube_ct"]
    assert phantom_dataset(tmp_path, "tube_ct", 1, spatial_dims=2, seed=1) != folder
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 1


def test_phantoms_to_test_are_none_that_training_sees(tmp_path):
    groups = phantom_test_cases(str(tmp_path), spatial_dims=2)
    assert {case["task"] for case in groups["in_distribution"]} == set(PHANTOM_TASKS)
    assert {case["task"] for case in groups["out_of_distribution"]} == set(TASKS) - set(PHANTOM_TASKS)
    seen = phantom_scan(PHANTOM_TASKS[0], 0, spatial_dims=2)[0]
    fresh = LoadScand("image")({"image": groups["in_distribution"][0]["image"], "case": "x"})["image"][0].numpy()
    assert not np.array_equal(fresh, seen)


@BOTH
@pytest.mark.parametrize("task", IMBALANCED_TASKS)
def test_imbalanced_task_has_classes_of_very_different_size(task, spatial_dims, tmp_path):
    labels = [phantom_scan(task, index, spatial_dims=spatial_dims)[1] for index in range(8)]
    shares = np.mean([np.bincount(label.ravel(), minlength=3) / label.size for label in labels], axis=0)
    assert shares[0] > shares[1] > (8 if spatial_dims == 3 else 4) * shares[2] > 0
    assert all(set(np.unique(label)) == {0, 1, 2} for label in labels)
    (case,) = decathlon_cases(phantom_dataset(tmp_path, task, 1, spatial_dims=spatial_dims))
    assert case["classes"] == [0, 1, 2]


def test_imbalanced_tasks_stand_in_where_they_are_named(tmp_path):
    groups = phantom_test_cases(str(tmp_path), spatial_dims=2, phantom_tasks=["bud_mr"])
    assert {case["task"] for case in groups["in_distribution"]} == {"bud_mr"}
    assert {case["task"] for case in groups["out_of_distribution"]} == {"ring_mr", "tube_ct"}
