import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from common.data.folders import find_scans, unique_names
from common.data.scans import evaluation_cases, phantom_test_cases, scans_to_segment
from common.data.split import training_cases
from common.errors import ConfigError, MissingDataError
from common.phantoms.volumes import PHANTOM_TASKS, TASKS

STRANGE_TASKS = [task for task in TASKS if task not in PHANTOM_TASKS]


def touch(folder, *names):
    """A folder of files that only look like scans: nothing is read while they are listed."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    return str(folder)


def column(cases, key):
    return [case.get(key) for case in cases]


@pytest.fixture
def known(decathlon_folder):
    return str(decathlon_folder("known", names=("a", "b", "c"), modality={"0": "CT"}))


def test_known_and_strange_folders_are_groups(known, tmp_path):
    unlabeled = touch(tmp_path / "unlabeled", "a.nii.gz")
    strange = [touch(tmp_path / "far", "x.nii", "y.mha"), touch(tmp_path / "near", "x.nrrd")]
    cases = evaluation_cases([known, unlabeled], strange, str(tmp_path / "out"))
    assert column(cases, "group") == ["known"] * 3 + ["unlabeled", "far", "far", "near"]
    assert column(cases, "in_distribution") == [True] * 4 + [False] * 3
    assert column(cases, "case") == ["a", "b", "c", "a_2", "x", "y", "x_2"]
    assert [("label" in case) for case in cases] == [True] * 3 + [False] * 4
    assert column(cases, "modality") == ["CT"] * 3 + [None] * 4
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ood_dir", [None, ""])
def test_evaluation_needs_no_strange_folder(known, tmp_path, ood_dir):
    cases = evaluation_cases(known, ood_dir, str(tmp_path / "out"))
    assert column(cases, "in_distribution") == [True] * 3


def test_strange_folder_may_be_given_as_text_and_hold_labels(known, decathlon_folder, tmp_path):
    strange = str(decathlon_folder("strange", names=("d",)))
    assert evaluation_cases(known, strange, str(tmp_path))[-1]["label"].endswith("labelsTr/d.nii.gz")


def test_split_file_chooses_among_the_known_cases_only(known, decathlon_folder, tmp_path):
    strange = str(decathlon_folder("strange", names=("a", "d")))
    split = {"train": {"known": ["a"]}, "val": {"known": ["b"]}, "test": {"known": ["c"]}}
    (tmp_path / "split.json").write_text(json.dumps(split))
    settings = {"split_file": str(tmp_path / "split.json")}
    cases = evaluation_cases(known, strange, str(tmp_path), **settings)
    assert column(cases, "case") == ["c", "a", "d"]
    assert column(evaluation_cases(known, None, str(tmp_path), split_part="val", **settings), "case") == ["b"]
    assert column(training_cases(known, str(tmp_path), **settings), "case") == ["a"]


def test_all_cases_are_training_cases_without_a_split_file(known, tmp_path):
    assert column(training_cases(known, str(tmp_path)), "case") == ["a", "b", "c"]


def test_split_file_that_names_no_known_case_is_told(known, tmp_path):
    (tmp_path / "split.json").write_text(json.dumps({"train": {"known": ["a"]}, "test": {}}))
    with pytest.raises(
        MissingDataError,
        match="names none of the 3 cases of dataset_dir in its part 'test'; give --split_part val, or train",
    ):
        evaluation_cases(known, None, str(tmp_path), split_file=str(tmp_path / "split.json"))


def test_every_damage_gives_a_strange_group_of_all_known_cases(known, tmp_path):
    strange = touch(tmp_path / "far", "x.nii")
    plain = evaluation_cases(known, strange, str(tmp_path))
    cases = evaluation_cases(known, strange, str(tmp_path), damages=["flip", "blur_1"])
    assert cases[:4] == plain
    assert column(cases[4:], "case") == ["a_flip", "b_flip", "c_flip", "a_blur_1", "b_blur_1", "c_blur_1"]
    assert column(cases[4:], "damage") == column(cases[4:], "group") == ["flip"] * 3 + ["blur_1"] * 3
    assert column(cases[4:], "in_distribution") == [False] * 6
    for key in ("image", "label", "task", "modality"):
        assert column(cases[4:], key) == column(plain[:3], key) * 2
    assert column(plain, "damage") == [None] * 4


def test_a_group_gives_some_of_its_cases(known, tmp_path):
    strange = touch(tmp_path / "far", *(f"{letter}.nii" for letter in "pqrstu"))
    cases = evaluation_cases(known, strange, str(tmp_path), damages=["flip"], cases_per_group=2)
    # In-distribution cases all count; the others come evenly from their group.
    assert column(cases, "case") == ["a", "b", "c", "p", "s", "a_flip", "b_flip"]
    whole = evaluation_cases(known, strange, str(tmp_path), damages=["flip"])
    assert evaluation_cases(known, strange, str(tmp_path), damages=["flip"], cases_per_group=6) == whole
    with pytest.raises(ConfigError, match="cases_per_group is 0"):
        evaluation_cases(known, strange, str(tmp_path), cases_per_group=0)


def test_damaged_cases_get_unique_names_too(decathlon_folder, tmp_path):
    folder = str(decathlon_folder(names=("a", "a_flip")))
    cases = evaluation_cases(folder, None, str(tmp_path), damages=["flip"])
    assert column(cases, "case") == ["a", "a_flip", "a_flip_2", "a_flip_flip"]


def test_phantoms_stand_in_of_kinds_that_training_knows_and_of_others(tmp_path):
    cases = evaluation_cases(None, None, str(tmp_path), spatial_dims=2, damages=["flip"])
    names = dict.fromkeys(column(cases, "group"))
    groups = {name: [case for case in cases if case["group"] == name] for name in names}
    assert list(groups) == [*PHANTOM_TASKS, *STRANGE_TASKS, "flip"]
    assert {group: len(members) for group, members in groups.items()} == dict.fromkeys([*TASKS], 6) | {"flip": 12}
    for group, members in groups.items():
        assert {case["in_distribution"] for case in members} == {group in PHANTOM_TASKS}
    assert len(set(column(cases, "case"))) == len(cases)
    assert nib.load(cases[0]["image"]).ndim == 2
    assert str(tmp_path / "phantoms") in cases[0]["image"]


def test_phantoms_of_an_evaluation_are_none_of_the_training(tmp_path):
    trained = training_cases(None, str(tmp_path), spatial_dims=2, seed=3)
    tested = phantom_test_cases(str(tmp_path), spatial_dims=2, seed=3)
    again = phantom_test_cases(str(tmp_path / "again"), spatial_dims=2, seed=3)
    assert {case["task"] for case in trained} == {case["task"] for case in tested["in_distribution"]}

    def images(cases):
        return [np.asarray(nib.load(case["image"]).dataobj).tobytes() for case in cases]

    assert not set(images(trained)) & set(images(tested["in_distribution"]))
    assert images(tested["in_distribution"]) == images(again["in_distribution"])


def test_strange_folder_counts_where_phantoms_are_the_known_cases(tmp_path):
    strange = touch(tmp_path / "far", "x.nii")
    assert "far" in column(evaluation_cases(None, strange, str(tmp_path / "out"), spatial_dims=2), "group")


@pytest.mark.parametrize("which", ["dataset_dir", "ood_dir"])
def test_missing_folder_of_an_evaluation_is_named(known, tmp_path, which):
    folders = {"dataset_dir": known, "ood_dir": known} | {which: str(tmp_path / "absent")}
    with pytest.raises(MissingDataError, match=rf"^{which} .*absent does not exist; give a scan or a folder of scans"):
        evaluation_cases(**folders, output_dir=str(tmp_path))


def test_scans_of_several_folders_are_segmented_without_labels(known, tmp_path):
    other = touch(tmp_path / "other", "a.nii.gz", "notes.txt")
    cases = scans_to_segment([known, other], str(tmp_path / "out"))
    assert column(cases, "case") == ["a", "b", "c", "a_2"]
    assert column(cases, "task") == ["known"] * 3 + ["other"]
    assert not any("label" in case for case in cases)
    assert scans_to_segment(other, str(tmp_path)) == [
        {"image": str(tmp_path / "other" / "a.nii.gz"), "case": "a", "task": "other"}
    ]


@pytest.mark.parametrize("dataset_dir", [None, "", []])
def test_known_and_strange_phantoms_are_segmented_without_data(tmp_path, dataset_dir):
    cases = scans_to_segment(dataset_dir, str(tmp_path), spatial_dims=2)
    assert len(cases) == 24
    assert set(column(cases, "task")) == set(TASKS)
    assert not any("label" in case for case in cases)


def test_training_and_test_images_of_a_listing_are_segmented_labeled_or_not(decathlon_folder, tmp_path):
    listed = {"training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}, "./imagesTr/b.nii.gz"]}
    folder = decathlon_folder(names="abc", **listed, test=["./imagesTr/c.nii.gz"])
    assert column(find_scans(folder), "case") == ["a", "b", "c"]
    cases = evaluation_cases(str(folder), None, str(tmp_path))
    assert [("label" in case) for case in cases] == [True, False, False]
    assert column(scans_to_segment(str(folder), str(tmp_path)), "case") == ["a", "b", "c"]


def test_split_file_tells_folders_of_the_same_name_apart(decathlon_folder, tmp_path):
    folders = [str(decathlon_folder(f"{place}/organ", ("a", "b"))) for place in "xy"]
    trained = {"train": {"organ": ["a"], "organ_2": ["b"]}, "test": {"organ": ["b"], "organ_2": ["a"]}}
    (tmp_path / "split.json").write_text(json.dumps(trained))
    cases = evaluation_cases(folders, None, str(tmp_path), split_file=str(tmp_path / "split.json"))
    seen = training_cases(folders, str(tmp_path), split_file=str(tmp_path / "split.json"))
    assert len(cases) == len(seen) == 2
    assert not set(column(cases, "image")) & set(column(seen, "image"))


@pytest.mark.parametrize(("spatial_dims", "found"), [(2, ["a", "b", "c"]), (3, ["c"])])
def test_pictures_are_scans_in_two_dimensions_only(tmp_path, spatial_dims, found):
    folder = touch(tmp_path / "scans", "a.PNG", "b.tiff", "c.nii", "d.txt")
    assert column(find_scans(folder, spatial_dims=spatial_dims), "case") == found


def test_folder_of_pictures_alone_holds_no_volume(tmp_path):
    (tmp_path / "scans").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "scans" / "a.png")
    with pytest.raises(
        MissingDataError,
        match=r"\(skipped: 1 x picture; this bundle takes volumes\); accepted are \.nii, .* and DICOM series",
    ):
        find_scans(tmp_path / "scans")


@pytest.mark.parametrize(
    ("names", "unique"),
    [
        ([], []),
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a_2", "a_3"]),
        (["a", "a", "a_2"], ["a", "a_2", "a_2_2"]),
        (["a_2", "a", "a"], ["a_2", "a", "a_3"]),
    ],
)
def test_no_two_cases_share_a_name(names, unique):
    cases = [{"case": name, "number": k} for k, name in enumerate(names)]
    assert unique_names(cases) == [{"case": name, "number": k} for k, name in enumerate(unique)]
    assert column(cases, "case") == names
