import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from common.data.cases import decathlon_cases
from common.data.scans import phantom_test_cases
from common.phantoms.pictures import FRAME_TASKS, PICTURE_TASKS, picture_phantom
from common.phantoms.volumes import PHANTOM_TASKS, TASKS, ood_tasks, phantom_dataset
from common.transforms import CheckImaged, CheckLabeld, LoadScand

EVERY = pytest.mark.parametrize("task", PICTURE_TASKS)


@EVERY
def test_same_seed_gives_the_same_picture_and_another_seed_or_number_another(task):
    picture, label = picture_phantom(PICTURE_TASKS[task], 1, seed=5)
    again = picture_phantom(PICTURE_TASKS[task], 1, seed=5)
    assert_array_equal(picture, again[0])
    assert_array_equal(label, again[1])
    for index, seed in ((1, 6), (2, 5)):
        assert not np.array_equal(picture, picture_phantom(PICTURE_TASKS[task], index, seed=seed)[0])


@EVERY
def test_picture_has_colors_two_classes_and_a_size_of_its_own(task):
    both = replace(PICTURE_TASKS[task], labels=(1, 2))
    pairs = [picture_phantom(both, index) for index in range(4)]
    assert len({picture.shape for picture, _ in pairs}) > 1
    for picture, label in pairs:
        assert picture.dtype == label.dtype == np.uint8
        assert picture.shape == (*label.shape, 3)
        assert np.unique(label).tolist() == [0, 1, 2]
        assert 0.7 < (label == 0).mean() < 0.95
        # Cells are darker than what surrounds them, small ones darkest; discs and stains are background.
        means = [picture[label == kind].mean() for kind in range(3)]
        assert means[0] > means[1] > means[2]
        assert picture[label == 0].mean(axis=-1).min() < means[0] - 60


@EVERY
def test_cells_without_a_label_are_drawn_as_background(task):
    both = replace(PICTURE_TASKS[task], labels=(1, 2))
    (picture, label), (same, every) = (picture_phantom(kind, 3) for kind in (PICTURE_TASKS[task], both))
    assert_array_equal(picture, same)
    assert_array_equal(label, np.where(every == 2, 0, every))


def test_folder_of_pictures_loads(tmp_path):
    folder = phantom_dataset(tmp_path, "cells_rgb", 2, spatial_dims=2, seed=1)
    cases = decathlon_cases(folder)
    assert [case["modality"] for case in cases] == ["RGB", "RGB"]
    assert cases[0]["classes"] == [0, 1]
    for index, case in enumerate(cases):
        loaded = CheckLabeld("label")(CheckImaged("image", 2, 3)(LoadScand(["image", "label"])(case)))
        picture, label = picture_phantom(PICTURE_TASKS["cells_rgb"], index, seed=1)
        # MONAI's reader of pictures gives the width first.
        assert_array_equal(np.asarray(loaded["image"]).transpose(2, 1, 0), picture)
        assert_array_equal(np.asarray(loaded["label"])[0].T, label)
        with Image.open(case["label"]) as stored:
            assert stored.mode == "L"
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    assert labels == {"0": "background", "1": "large cell"}


def test_strange_phantoms_are_of_the_kind_that_is_known(tmp_path):
    assert ood_tasks(["cells_rgb"]) == ("fibers_rgb", "brown_cells_rgb")
    assert ood_tasks(PHANTOM_TASKS) == tuple(task for task in TASKS if task not in PHANTOM_TASKS)
    groups = phantom_test_cases(str(tmp_path), spatial_dims=2, phantom_tasks=["cells_rgb"])
    assert {case["task"] for case in groups["in_distribution"]} == {"cells_rgb"}
    assert {case["task"] for case in groups["out_of_distribution"]} == {"fibers_rgb", "brown_cells_rgb"}


def test_frames_show_different_sets_of_classes_and_never_none():
    labels = [picture_phantom(FRAME_TASKS["tools_rgb"], index)[1] for index in range(40)]
    sets = [tuple(np.unique(label[label > 0]).tolist()) for label in labels]
    assert set(sets) == {(1,), (2,), (1, 2)}
    assert min(sets.count(kind) for kind in set(sets)) > 3
    assert ood_tasks(["tools_rgb"]) == ("drape_rgb", "bubbles_rgb")
