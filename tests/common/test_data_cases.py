import json
import re
from contextlib import suppress
from pathlib import Path

import pytest

from common.data.cases import (
    case_name,
    class_names,
    decathlon_cases,
    decathlon_scans,
    labeled_cases,
    weights_folder,
)
from common.data.folders import find_scans
from common.data.names import free_name
from common.data.scans import evaluation_cases, scans_to_segment
from common.data.split import CaseSplit, select_cases, split_cases, training_cases, write_split
from common.errors import BundleError, ConfigError, ImageError, MissingDataError, NotEnoughCasesError
from common.transforms import LoadScand


def make_cases(number=10, task="organ", per_patient=1):
    return [
        {"image": f"{task}/{i}.nii.gz", "case": f"{task}_{i}", "task": task}
        | ({"patient": f"p{i // per_patient}"} if per_patient > 1 else {})
        for i in range(number)
    ]


def names(cases):
    return [case["case"] for case in cases]


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/b.nii.gz", "b"), ("b.nii", "b"), ("x.y.nii.gz", "x.y"), ("scan.mha", "scan"), ("plain", "plain")],
)
def test_case_is_named_after_its_file(path, name):
    assert case_name(path) == name


def test_listing_becomes_cases(decathlon_folder):
    folder = decathlon_folder(
        names=("a", "b"), items=[{"patient": "p1"}], modality={"0": "CT"}, labels={"0": "background", "2": "organ"}
    )
    common = {"task": "organ", "modality": "CT", "classes": [0, 2]}
    assert decathlon_cases(folder) == [
        {
            "image": str(folder / "imagesTr" / f"{name}.nii.gz"),
            "label": str(folder / "labelsTr" / f"{name}.nii.gz"),
            "case": name,
        }
        | common
        | extra
        for name, extra in (("a", {"patient": "p1"}), ("b", {}))
    ]


@pytest.mark.parametrize(
    ("text", "modality"), [("CT", "CT"), ("ct scan", "CT"), ("MRI", "MR"), ("mr", "MR"), ("US", None)]
)
def test_modality_is_read_from_the_listing(decathlon_folder, text, modality):
    assert decathlon_cases(decathlon_folder(modality={"0": text}))[0].get("modality") == modality


@pytest.mark.parametrize(
    ("listing", "text"),
    [
        (None, "holds no dataset.json; expected is a Decathlon folder"),
        ("{", "is no Decathlon listing"),
        ("[]", r"is no Decathlon listing \(it holds a list\); it needs a list 'training'"),
        ("[" * 100_000, r"is no Decathlon listing \(brackets nested too deeply\); it needs a list 'training'"),
        ('{"training": [' * 50_000, "brackets nested too deeply"),
        ('{"labels": {"1' + "0" * 5000 + '": "x"}, "training": ["a"]}', "is no Decathlon listing"),
        ('{"training": [1e999]}', "it needs a list 'training'"),
        ('{"training": 3}', "it needs a list 'training'"),
        ('{"training": [{"label": "b.nii.gz"}]}', "it needs a list 'training'"),
        ("{}", "lists no case; its list 'training' is empty"),
        ('{"training": []}', "lists no case; its list 'training' is empty"),
        ('{"test": ["a.nii.gz"]}', "lists no case; its list 'training' is empty"),
        (
            '{"training": [{"image": "a.nii.gz", "label": "b.nii.gz"}]}',
            r"lists 2 file\(s\) that do not exist, the first is .*a\.nii\.gz",
        ),
    ],
)
def test_unusable_listing_is_named(tmp_path, listing, text):
    if listing is not None:
        (tmp_path / "dataset.json").write_text(listing)
    with pytest.raises(MissingDataError, match=text) as caught:
        decathlon_cases(tmp_path)
    assert len(str(caught.value)) < 1000
    assert isinstance(caught.value, BundleError)
    assert isinstance(caught.value, FileNotFoundError)


def test_listing_of_another_encoding_or_out_of_reach_is_named(tmp_path, monkeypatch):
    (tmp_path / "dataset.json").write_bytes('{"name": "Müller"}'.encode("latin-1"))
    with pytest.raises(MissingDataError, match=r"is no Decathlon listing \(UnicodeDecodeError"):
        decathlon_cases(tmp_path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(MissingDataError, match=r"dataset\.json cannot be read \(Permission denied\); make it readable"):
        decathlon_cases(tmp_path)


@pytest.mark.parametrize("listing", ["[" * 100_000, "[]", '{"labels": '])
def test_class_names_of_a_broken_listing_are_one_line(decathlon_folder, listing):
    (case, *_) = decathlon_cases(folder := decathlon_folder())
    (folder / "dataset.json").write_text(listing)
    with pytest.raises(MissingDataError, match="is no Decathlon listing"):
        class_names(case)


MISSING = ["absent.nii.gz", "", ".", "a\0b.nii.gz", "a" * 300 + ".nii.gz", "../absent.nii.gz"]


@pytest.mark.parametrize("name", MISSING, ids=ascii)
@pytest.mark.parametrize("key", ["image", "label"])
def test_missing_file_is_a_case_for_inference_and_an_error_for_training(decathlon_folder, tmp_path, name, key):
    entry = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"} | {key: name}
    whole = {"image": "./imagesTr/b.nii.gz", "label": "./labelsTr/b.nii.gz"}
    folder = decathlon_folder(training=[entry, whole])
    for refuse in (decathlon_cases, find_scans, lambda root: labeled_cases(str(root), tmp_path)):
        with pytest.raises(MissingDataError, match=r"lists 1 file\(s\) that do not exist, the first is "):
            refuse(folder)
    cases = evaluation_cases(str(folder), None, str(tmp_path / "out"))
    assert names(cases)[1] == "b"
    assert names(scans_to_segment(str(folder), str(tmp_path / "out"))) == names(cases)
    with pytest.raises(ImageError, match=r"cannot be read \(|holds no DICOM file"):
        LoadScand(["image", "label"])(cases[0])


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"dataset_dir .*absent does not exist"):
        decathlon_cases(tmp_path / "absent")


@pytest.mark.parametrize(
    "description",
    [
        {"modality": "CT"},
        {"labels": {"background": 0, "organ": 1}},
    ],
)
def test_listing_of_another_form_is_read_or_refused(decathlon_folder, description):
    with suppress(MissingDataError):
        assert names(decathlon_cases(decathlon_folder(**description))) == ["a", "b", "c"]


@pytest.mark.parametrize("training", [["./imagesTr/a.nii.gz"], [{"image": "./imagesTr/a.nii.gz"}]])
def test_listing_without_labels_has_scans_and_no_labeled_case(decathlon_folder, training):
    folder = decathlon_folder(training=training, modality={"0": "CT"})
    assert decathlon_scans(folder) == [
        {"image": str(folder / "imagesTr" / "a.nii.gz"), "case": "a", "task": "organ", "modality": "CT"}
    ]
    with pytest.raises(MissingDataError, match=r"organ/dataset\.json lists no labeled case; .*'training' needs labels"):
        decathlon_cases(folder)


@pytest.fixture
def both_lists(decathlon_folder):
    """A Decathlon folder with a labeled and an unlabeled training case and a test case of each form."""
    given = [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz", "patient": "p1"}, "./imagesTr/b.nii.gz"]
    tested = ["./imagesTr/c.nii.gz", {"image": "./imagesTr/d.nii.gz", "patient": "p2"}]
    return decathlon_folder(names="abcd", training=given, test=tested, labels={"0": "background", "1": "organ"})


def test_scans_of_a_listing_are_those_of_training_and_test(both_lists):
    scans = decathlon_scans(both_lists)
    assert names(scans) == ["a", "b", "c", "d"]
    assert [case.get("label") for case in scans] == [str(both_lists / "labelsTr" / "a.nii.gz"), None, None, None]
    assert [case.get("patient") for case in scans] == ["p1", None, None, "p2"]
    assert all(case["task"] == "organ" and case["classes"] == [0, 1] for case in scans)
    assert decathlon_scans(both_lists, sections=("test",)) == scans[2:]
    assert decathlon_cases(both_lists) == scans[:1]


def test_missing_test_image_is_named_where_test_images_are_read(both_lists):
    (both_lists / "imagesTr" / "d.nii.gz").unlink()
    assert names(decathlon_cases(both_lists)) == ["a"]
    with pytest.raises(MissingDataError, match=r"lists 1 file\(s\) that do not exist, the first is .*d\.nii\.gz"):
        decathlon_scans(both_lists)


def test_listing_of_empty_lists_is_named(decathlon_folder):
    with pytest.raises(MissingDataError, match="lists no case; its list 'training' or 'test' is empty"):
        decathlon_scans(decathlon_folder(training=[], test=[]))


def test_free_name_is_taken_afterwards():
    taken = {"a", "a_2"}
    assert [free_name(name, taken) for name in ("a", "a", "b", "b")] == ["a_3", "a_4", "b", "b_2"]
    assert taken == {"a", "a_2", "a_3", "a_4", "b", "b_2"}


def test_folders_of_the_same_name_are_tasks_of_their_own(decathlon_folder, tmp_path):
    folders = [str(decathlon_folder(f"{place}/organ", (case,))) for place, case in zip("xyz", "aab", strict=True)]
    cases = labeled_cases(folders, tmp_path)
    assert [case["task"] for case in cases] == ["organ", "organ_2", "organ_3"]
    write_split({"train": cases[:1], "test": cases[1:]}, tmp_path / "split.json")
    # Their cases share a name and are told apart all the same.
    assert select_cases(cases, tmp_path / "split.json", "train") == cases[:1]
    assert training_cases(folders, str(tmp_path), split_file=str(tmp_path / "split.json")) == cases[:1]


def test_folders_are_joined_each_as_its_own_task(decathlon_folder, tmp_path):
    folders = [str(decathlon_folder("liver", ("a",))), str(decathlon_folder("heart", ("a", "b")))]
    assert [case["task"] for case in labeled_cases(folders, tmp_path)] == ["liver", "heart", "heart"]
    assert names(labeled_cases(folders[1], tmp_path)) == ["a", "b"]
    assert not (tmp_path / "phantoms").exists()


def test_phantoms_stand_in_and_the_log_says_so(tmp_path, caplog):
    with caplog.at_level("INFO"):
        cases = labeled_cases(None, tmp_path, spatial_dims=2, phantom_tasks=("tube_ct",), phantom_cases=2)
    assert names(cases) == ["tube_ct_000", "tube_ct_001"]
    assert all(case["phantom"] for case in cases)
    assert "no dataset_dir given: using 2 phantom scans" in caplog.text


def test_split_gives_every_case_to_one_part():
    cases = make_cases(20, "a") + make_cases(10, "b")
    parts = split_cases(cases, 0.2, seed=0, test_fraction=0.1)
    assert sorted(names(parts["train"] + parts["val"] + parts["test"])) == sorted(names(cases))
    sizes = {part: [sum(c["task"] == task for c in chosen) for task in "ab"] for part, chosen in parts.items()}
    assert sizes == {"train": [14, 7], "val": [4, 2], "test": [2, 1]}


def test_split_depends_on_the_seed_and_not_on_the_order_of_cases():
    cases = make_cases(12)
    first = split_cases(cases, 0.25, seed=1)
    again = split_cases(cases[::-1], 0.25, seed=1)
    assert {part: set(names(chosen)) for part, chosen in first.items()} == {
        part: set(names(chosen)) for part, chosen in again.items()
    }
    assert len({tuple(names(split_cases(cases, 0.25, seed=seed)["val"])) for seed in range(8)}) > 1


@pytest.mark.parametrize("seed", range(4))
def test_cases_of_one_patient_stay_together(seed):
    parts = split_cases(make_cases(24, per_patient=3), 0.25, seed=seed, test_fraction=0.25)
    patients = {part: {case["patient"] for case in chosen} for part, chosen in parts.items()}
    assert {part: len(found) for part, found in patients.items()} == {"train": 4, "val": 2, "test": 2}
    assert len(set.union(*patients.values())) == 8


def test_cases_of_one_region_stay_together_where_no_patient_is_known():
    cases = [case | {"region": f"r{index // 4}"} for index, case in enumerate(make_cases(24))]
    parts = split_cases(cases, 0.2, seed=0, num_folds=3, fold=1)
    regions = {part: {case["region"] for case in chosen} for part, chosen in parts.items()}
    assert {part: len(found) for part, found in regions.items()} == {"train": 3, "val": 1, "test": 2}
    assert len(set.union(*regions.values())) == 6


@pytest.mark.parametrize("seed", [0, 1])
def test_folds_test_every_patient_once_whatever_the_seed(seed):
    sizes = [9, 1, 4, 4, 2, 6, 1]
    cases = [
        case | {"patient": f"p{number}"}
        for number, size in enumerate(sizes)
        for case in make_cases(size, task=f"organ{number}")
    ]
    cases = [case | {"task": "organ", "image": f"{index}.nii.gz"} for index, case in enumerate(cases)]
    tested = [split_cases(cases, 0.2, seed=seed, num_folds=3, fold=fold) for fold in range(3)]
    patients = [{case["patient"] for case in parts["test"]} for parts in tested]
    assert sum(map(len, patients)) == len(set.union(*patients)) == len(sizes)
    assert patients == [{"p0"}, {"p1", "p4", "p5"}, {"p2", "p3", "p6"}]
    assert [len(parts["test"]) for parts in tested] == [9, 9, 9]
    for parts in tested:
        found = [{case["patient"] for case in chosen} for chosen in parts.values()]
        assert not found[0] & found[1]
        assert not (found[0] | found[1]) & found[2]
        assert sum(map(len, parts.values())) == len(cases)


@pytest.mark.parametrize("settings", [{"num_folds": 1}, {"num_folds": 3, "fold": 3}, {"num_folds": 3, "fold": -1}])
def test_impossible_folds_are_named(settings):
    with pytest.raises(ConfigError, match="accepted are at least 2 folds, counted from 0"):
        split_cases(make_cases(9), 0.2, 0, **settings)
    with pytest.raises(ConfigError, match="no test_fraction, since the fold is the test part"):
        split_cases(make_cases(9), 0.2, 0, num_folds=3, fold=1, test_fraction=0.1)
    with pytest.raises(NotEnoughCasesError, match=r"2 patient\(s\) cannot make 3 folds"):
        split_cases(make_cases(2), 0.2, 0, num_folds=3)


def test_small_fraction_still_validates_on_one_patient():
    assert len(split_cases(make_cases(5), 0.01, seed=0)["val"]) == 1


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.0), (0.1, -0.1), (0.6, 0.4), (1.0, 0.0)])
def test_fractions_that_leave_nothing_are_refused(val, test):
    with pytest.raises(ConfigError, match=re.escape(f"val_fraction {val} and test_fraction {test}")):
        split_cases(make_cases(), val, seed=0, test_fraction=test)


@pytest.mark.parametrize(
    ("cases", "found"), [(make_cases(1), 1), (make_cases(6, per_patient=6), 1), (make_cases(2), 2)]
)
def test_too_few_patients_are_counted(cases, found):
    with pytest.raises(NotEnoughCasesError, match=rf"'organ' has {found} patient\(s\).*none is left to train on"):
        split_cases(cases, 0.5, seed=0, test_fraction=0.4)


def test_written_split_is_the_split_that_is_read(tmp_path):
    cases = make_cases(10, "a") + make_cases(10, "b")
    parts = split_cases(cases, 0.2, seed=0, test_fraction=0.2)
    path = tmp_path / "run" / "split.json"
    write_split(parts, path)
    for part in ("train", "val", "test"):
        assert sorted(names(select_cases(cases, path, part))) == sorted(names(parts[part]))
    again = split_cases(cases, 0.5, seed=9, split_file=str(path))
    assert sorted(names(again["train"])) == sorted(names(parts["train"]))
    assert sorted(names(again["val"])) == sorted(names(parts["val"]))


def test_split_file_tells_cases_of_equal_name_apart_by_task(tmp_path):
    cases = [{"image": f"{task}/x.nii", "case": "x", "task": task} for task in "ab"]
    write_split({"train": cases[:1], "test": cases[1:]}, tmp_path / "split.json")
    assert json.loads((tmp_path / "split.json").read_text()) == {"test": {"b": ["x"]}, "train": {"a": ["x"]}}
    assert select_cases(cases, tmp_path / "split.json", "test") == cases[1:]


def test_all_cases_are_chosen_without_a_split_file():
    assert names(select_cases(make_cases(3), None, "test")) == ["organ_0", "organ_1", "organ_2"]


def test_split_file_that_does_not_help_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"split_file .*absent.json does not exist"):
        select_cases(make_cases(), tmp_path / "absent.json", "train")
    write_split({"train": make_cases(3, "other")}, tmp_path / "split.json")
    with pytest.raises(MissingDataError, match="names none of the 10 cases of dataset_dir in its part 'train'"):
        select_cases(make_cases(), tmp_path / "split.json", "train")


def test_split_file_that_is_no_split_is_named(tmp_path):
    (tmp_path / "split.json").write_text("{")
    with pytest.raises(BundleError, match=r"split\.json"):
        select_cases(make_cases(), tmp_path / "split.json", "train")


@pytest.mark.parametrize(
    ("flags", "folder"), [([True, True], "out/models"), ([True, False], "given"), ([False], "given"), ([], "given")]
)
def test_weights_of_phantoms_never_go_to_the_shipped_ones(flags, folder):
    cases = [{"case": "x"} | ({"phantom": True} if flag else {}) for flag in flags]
    assert weights_folder(cases, "given", "out") == folder


def case_split(folder, tmp_path, **settings):
    return CaseSplit(folder, str(tmp_path / "out"), **({"val_fraction": 0.25} | settings))


def test_split_is_drawn_when_a_part_is_first_asked_for(decathlon_folder, tmp_path):
    split = case_split(str(tmp_path / "absent"), tmp_path)
    assert not split.drawn
    with pytest.raises(MissingDataError, match="absent does not exist"):
        split.part("train")
    assert not split.drawn
    folder = str(decathlon_folder(names="abcdefgh"))
    split = case_split(folder, tmp_path, test_fraction=0.25, seed=3)
    assert split.part("val")
    assert split.drawn
    assert split.parts == split_cases(labeled_cases(folder, tmp_path), 0.25, 3, test_fraction=0.25)
    assert {name: len(split.part(name)) for name in ("train", "val", "test")} == {"train": 4, "val": 2, "test": 2}


def test_split_is_drawn_once(decathlon_folder, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("common.data.split.labeled_cases", lambda **given: calls.append(given) or make_cases(8))
    split = case_split("given", tmp_path)
    assert [split.part("train"), split.part("val"), split.part("train")][::2] == [split.parts["train"]] * 2
    assert len(calls) == 1
    assert calls[0]["dataset_dir"] == "given"


def test_split_without_data_makes_phantoms_only_when_asked(tmp_path):
    split = case_split(None, tmp_path, spatial_dims=2, phantom_cases=4, seed=5)
    assert not (tmp_path / "out").exists()
    assert len(split.part("train")) == 3 * len({case["task"] for case in split.part("val")})
    assert all(case["phantom"] for part in ("train", "val") for case in split.part(part))
    assert split.part("train")[0]["image"].startswith(str(tmp_path / "out" / "phantoms"))


def test_split_of_a_file_has_no_test_part(decathlon_folder, tmp_path):
    folder = str(decathlon_folder())
    cases = labeled_cases(folder, tmp_path)
    write_split({"train": cases[:2], "val": cases[2:], "test": cases[:1]}, tmp_path / "split.json")
    split = case_split(folder, tmp_path, split_file=str(tmp_path / "split.json"))
    assert [split.part(name) for name in ("train", "val", "test")] == [cases[:2], cases[2:], []]
