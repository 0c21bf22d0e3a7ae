import json
import re

import pytest

from common.data.cases import (
    labeled_cases,
)
from common.data.split import CaseSplit, select_cases, split_cases, without_patients, write_split
from common.errors import BundleError, ConfigError, MissingDataError, NotEnoughCasesError
from tests.common.cases import make_cases, names


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


@pytest.mark.parametrize("key", ["patient", "region"])
def test_patient_may_have_the_number_0(key):
    cases = [{"image": f"{number}.png", "case": str(number), "task": "a", key: number // 4} for number in range(12)]
    parts = split_cases(cases, 0.3, seed=0)
    assert not {case[key] for case in parts["train"]} & {case[key] for case in parts["val"]}
    assert {len(chosen) for part, chosen in parts.items() if part != "test"} == {4, 8}


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


@pytest.mark.parametrize(("held_out", "taken"), [
    # A region may be called alike in two patients; it counts where one of both listings tells no patient.
    ({"patient": 1, "region": "left"}, ["p0", "lp2", "rp2", "r"]),
    ({"region": "left"}, ["rp2", "p1", "p0", "r"]),
    ({"patient": 0, "region": ""}, ["p1", "lp1", "lp2", "rp2", "l", "r"]),
    # The file itself, whoever it is of.
    ({"image": "r.png"}, ["p0", "p1", "lp1", "lp2", "rp2", "l"]),
])  # fmt: skip
def test_regions_count_where_no_patient_is_told(held_out, taken, caplog):
    cases = {
        "p0": {"patient": "0"}, "p1": {"patient": "1"}, "lp1": {"patient": "1", "region": "left"},
        "lp2": {"patient": "2", "region": "left"}, "rp2": {"patient": "2", "region": "right"},
        "l": {"region": "left"}, "r": {"region": "right"},
    }  # fmt: skip
    listed = [{"image": f"{name}.png", "case": name} | case for name, case in cases.items()]
    with caplog.at_level("INFO"):
        kept = without_patients(listed, [{"image": "elsewhere.png"} | held_out], what="frames")
    assert sorted(case["case"] for case in kept) == sorted(taken)
    assert f"{7 - len(taken)} of 7 frames are left out: their patients are for validation or test" in caplog.text
