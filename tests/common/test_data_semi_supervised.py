"""Which cases give their labels, and which are learned from without."""

import json
from collections import Counter

import numpy as np
import pytest

from common.data import SemiSupervisedSplit, cases_to_learn, draw_labeled, unlabeled_cases
from common.data.split import write_split
from common.errors import ConfigError, MissingDataError


def make_cases(number=20, task="organ", per_patient=1):
    return [
        {
            "image": f"{task}/{i:02}",
            "label": f"l{i}",
            "case": f"c{i:02}",
            "task": task,
            "patient": f"p{i // per_patient:02}",
        }
        for i in range(number)
    ]


class TestDraw:
    @pytest.mark.parametrize(("fraction", "expected"), [(0.05, 1), (0.1, 2), (0.4, 8), (1.0, 20), (0.001, 1)])
    def test_share_of_patients(self, fraction, expected):
        labeled, rest = draw_labeled(make_cases(), fraction, 0)
        assert len(labeled) == expected
        assert sorted(case["case"] for case in labeled + rest) == [f"c{i:02}" for i in range(20)]

    @pytest.mark.parametrize("seed", range(4))
    def test_cases_of_one_patient_stay_together(self, seed):
        labeled, rest = draw_labeled(make_cases(24, per_patient=3), 0.25, seed)
        patients = [{case["patient"] for case in part} for part in (labeled, rest)]
        assert len(patients[0]) == 2
        assert not patients[0] & patients[1]

    def test_same_seed_same_draw_and_larger_shares_hold_smaller_ones(self):
        draws = [[case["case"] for case in draw_labeled(make_cases(), share, 3)[0]] for share in (0.1, 0.2, 0.4)]
        assert draws[0] == [case["case"] for case in draw_labeled(make_cases(), 0.1, 3)[0]]
        assert set(draws[0]) < set(draws[1]) < set(draws[2])
        assert set(draws[0]) != {case["case"] for case in draw_labeled(make_cases(), 0.1, 4)[0]}

    def test_every_data_set_has_labeled_patients(self):
        labeled, _ = draw_labeled(make_cases(10) + make_cases(5, task="other"), 0.2, 0)
        assert Counter(case["task"] for case in labeled) == {"organ": 2, "other": 1}

    @pytest.mark.parametrize("fraction", [0, -0.1, 1.01, 20])
    def test_other_fractions_are_refused(self, fraction):
        with pytest.raises(ConfigError, match=f"labeled_fraction is {fraction}; accepted is above 0, up to 1"):
            draw_labeled(make_cases(), fraction, 0)


class TestSplit:
    @pytest.fixture
    def folder(self, decathlon_folder):
        """Ten cases of five patients; the last two cases, of the fifth patient, have no label."""
        names = [f"s{i}" for i in range(10)]
        folder = decathlon_folder(names=names, items=[{"patient": f"p{i // 2}"} for i in range(10)])
        listing = folder / "dataset.json"
        text = listing.read_text()
        for name in ("s8", "s9"):
            text = text.replace(f', "label": "./labelsTr/{name}.nii.gz"', "")
        listing.write_text(text)
        return folder

    def split(self, folder, tmp_path, **settings):
        settings = {"val_fraction": 0.25, "labeled_fraction": 0.3} | settings
        return SemiSupervisedSplit(str(folder), str(tmp_path), **settings)

    def test_every_case_has_one_place_and_no_patient_two(self, folder, tmp_path):
        split = self.split(folder, tmp_path, test_fraction=0.25)
        parts = {name: split.part(name) for name in ("train", "unlabeled", "val", "test")}
        assert Counter(case["case"] for part in parts.values() for case in part) == {f"s{i}": 1 for i in range(10)}
        assert {name: len(part) for name, part in parts.items()} == {"train": 2, "unlabeled": 4, "val": 2, "test": 2}
        patients = [{case["patient"] for case in part} for part in parts.values()]
        assert sum(map(len, patients)) == len(set.union(*patients))
        assert all("label" in case for case in parts["train"])
        assert not any("label" in case for case in parts["unlabeled"])
        assert {"s8", "s9"} <= {case["case"] for case in parts["unlabeled"]}

    def test_unlabeled_items_of_validated_patients_are_left_out(self, decathlon_folder, tmp_path):
        names = [f"s{i}" for i in range(8)]
        folder = decathlon_folder(names=names, items=[{"patient": f"p{i % 4}"} for i in range(8)])
        listing = folder / "dataset.json"
        text = listing.read_text()
        for name in names[4:]:
            text = text.replace(f', "label": "./labelsTr/{name}.nii.gz"', "")
        listing.write_text(text)
        split = self.split(folder, tmp_path)
        validated = {case["patient"] for case in split.part("val")}
        assert len(split.part("unlabeled")) == 2 + 3
        assert not validated & {case["patient"] for case in split.part("unlabeled")}

    def test_labeled_cases_may_be_named(self, folder, tmp_path):
        split = self.split(folder, tmp_path, labeled_cases=["s0", "s3"])
        assert [case["case"] for case in split.part("train")] == ["s0", "s3"]
        assert {"s1", "s2"} <= {case["case"] for case in split.part("unlabeled")}
        assert not {"s1", "s2"} & {case["case"] for case in split.part("val")}

    def test_names_that_no_data_set_has_are_refused(self, folder, tmp_path):
        with pytest.raises(MissingDataError, match=r"labeled_cases names \['x'\], which no data set has"):
            self.split(folder, tmp_path, labeled_cases=["s0", "x"]).part("train")

    def test_written_split_is_read_again(self, folder, tmp_path):
        first = self.split(folder, tmp_path, test_fraction=0.25)
        names = ("train", "unlabeled", "val", "test")
        write_split({name: first.part(name) for name in names}, tmp_path / "split.json")
        second = self.split(folder, tmp_path, split_file=str(tmp_path / "split.json"), seed=9)
        for name in names[:3]:
            assert [case["case"] for case in second.part(name)] == [case["case"] for case in first.part(name)]
        assert not any("label" in case for case in second.part("unlabeled"))

    def test_split_where_all_are_labeled_is_read_again(self, folder, tmp_path):
        first = self.split(folder, tmp_path, labeled_fraction=1.0)
        parts = {name: first.part(name) for name in ("train", "val")} | {"unlabeled": []}
        write_split(parts, tmp_path / "split.json")
        second = self.split(folder, tmp_path, split_file=str(tmp_path / "split.json"))
        assert second.part("unlabeled") == []
        assert len(second.part("train")) == len(first.part("train"))

    def test_scans_of_another_folder_join_the_unlabeled(self, folder, save_nifti, tmp_path):
        for name in ("a", "b"):
            save_nifti(tmp_path / "more" / f"{name}.nii.gz", np.zeros((3, 3, 3), np.float32))
        split = self.split(folder, tmp_path, unlabeled_dir=str(tmp_path / "more"))
        assert {("more", "a"), ("more", "b")} <= {(case["task"], case["case"]) for case in split.part("unlabeled")}

    def test_scans_of_another_folder_are_of_other_patients(self, folder, save_nifti, tmp_path, caplog):
        images = [{"image": f"{n}.nii.gz", "patient": f"p{n}"} for n in range(6)]
        for item in images:
            save_nifti(tmp_path / "more" / item["image"], np.zeros((3, 3, 3), np.float32))
        listing = {"training": images, "modality": {"0": "MR"}, "labels": {"0": "background"}}
        (tmp_path / "more" / "dataset.json").write_text(json.dumps(listing))
        with caplog.at_level("INFO"):
            split = self.split(folder, tmp_path, unlabeled_dir=str(tmp_path / "more"), test_fraction=0.25)
            further = {case["patient"] for case in split.part("unlabeled") if case["task"] == "more"}
        held_out = {case["patient"] for part in ("val", "test") for case in split.part(part)}
        assert further == {f"p{n}" for n in range(6)} - held_out
        assert "2 of 8 scans without labels are left out: their patients are for validation or test" in caplog.text

    @pytest.mark.parametrize("text", ["does not exist", "holds no scan"])
    def test_missing_unlabeled_images_are_named(self, folder, tmp_path, text):
        if text == "holds no scan":
            (tmp_path / "more").mkdir()
        with pytest.raises(MissingDataError, match=f"unlabeled_dir .*more {text}"):
            self.split(folder, tmp_path, unlabeled_dir=str(tmp_path / "more")).part("train")

    def test_unlabeled_item_without_a_file_is_named(self, folder, tmp_path):
        (folder / "imagesTr" / "s9.nii.gz").unlink()
        with pytest.raises(MissingDataError, match=r"1 file\(s\) that do not exist, the first is .*s9"):
            self.split(folder, tmp_path).part("train")

    def test_cases_set_from_outside_take_unlabeled_scans_of_their_folder_alone(self, folder, save_nifti, tmp_path):
        save_nifti(tmp_path / "more" / "a.nii.gz", np.zeros((3, 3, 3), np.float32))
        split = self.split(folder, tmp_path, unlabeled_dir=str(tmp_path / "more"))
        save_nifti(tmp_path / "more" / "b.nii.gz", np.zeros((3, 3, 3), np.float32))
        given = [{"image": "x", "label": "y"}]
        validated = [{"image": str(tmp_path / "more" / "b.nii.gz"), "label": "z"}]
        found = unlabeled_cases(split, given, validated)
        assert [case["case"] for case in found] == ["a"]
        assert not split.drawn
        assert unlabeled_cases(split, split.part("train"), []) == split.part("unlabeled")

    def test_nothing_is_loaded_from_which_nothing_is_learned(self):
        cases = make_cases(3)
        assert cases_to_learn(cases, cases, teaching="none", mixing="none") == []
        for teaching, mixing in (("cross", "none"), ("none", "CutMix")):
            assert cases_to_learn(cases[:1], cases[1:], teaching=teaching, mixing=mixing) == cases[:1]

    def test_labeled_cases_serve_without_their_labels_where_there_are_no_others(self):
        cases = make_cases(3)
        images = [{key: value for key, value in case.items() if key != "label"} for case in cases]
        assert cases_to_learn([], cases, teaching="cross", mixing="none") == images != cases

    def test_scan_is_not_labeled_and_unlabeled_at_once(self, folder, tmp_path):
        """The folder of unlabeled scans may hold the labeled ones too."""
        split = self.split(folder, tmp_path, unlabeled_dir=str(folder / "imagesTr"))
        names = [case["case"] for part in ("train", "unlabeled", "val") for case in split.part(part)]
        assert sorted(names) == sorted({*names})
