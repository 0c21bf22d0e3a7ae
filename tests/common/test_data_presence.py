"""Where the classes of a frame come from, and which frames give their masks."""

import csv
import re
from collections import Counter

import numpy as np
import pytest
import torch

from common.contrast.presence import PresenceReader, frames_to_learn, presence_table, read_presence
from common.contrast.split import ClasswiseSplit, draw_frames
from common.errors import ConfigError, LabelError, MissingDataError


def write_table(path, rows, columns=("image", "classes", "phase")):
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(rows)
    return path


def reader(case):
    return {"label": torch.tensor(case["label"])}


class TestSources:
    CASE = {"image": "videos/f1.png", "case": "f1", "task": "cholec", "label": [0, 2, 2], "listed": [0, 3]}

    def test_table_comes_before_the_listing_and_the_listing_before_the_mask(self, tmp_path):
        table = write_table(tmp_path / "t.csv", [["f1.png", "1;2", "dissection"], ["f2", "", ""]])
        for settings, case, expected in (
            ({"presence_file": table}, self.CASE, [1, 2]),
            ({}, self.CASE, [3]),
            ({}, {key: value for key, value in self.CASE.items() if key != "listed"}, [2]),
        ):
            (found,) = PresenceReader(5, reader=reader, **settings).annotate([case])
            assert found["present"] == expected
            assert found.get("phase") == ("dissection" if settings else None)

    def test_phase_from_the_place_among_the_frames_of_a_patient(self):
        told = {"phase": "x", "listed": [1]}
        cases = [
            {"image": f"{patient}{n}", "case": f"{patient}{n}", "patient": patient, "slice": n, **told}
            for patient, count in (("a", 6), ("b", 3)) for n in reversed(range(count))
        ]  # fmt: skip
        presence = PresenceReader(5, phase_from="position")
        found = {case["case"]: case["phase"] for case in presence.annotate(cases)}
        assert found == dict(zip([*(f"a{n}" for n in range(6)), "b0", "b1", "b2"], "001122012", strict=True))
        # A part of the frames keeps the phases that they have among all.
        part = presence.annotate(cases)[:2]
        assert [case["phase"] for case in presence.annotate(part)] == ["2", "2"]
        assert all("phase" not in case for case in PresenceReader(5, phase_from="none").annotate(cases))
        with pytest.raises(ConfigError, match="phase_from is 'time'; accepted are data, position, none"):
            PresenceReader(5, phase_from="time")

    def test_frame_that_tells_nothing_is_left_as_it_is(self):
        case = {"image": "f9.png", "case": "f9"}
        assert PresenceReader(5, reader=reader).annotate([case]) == [case]

    def test_empty_cell_means_background_alone(self, tmp_path):
        table = write_table(tmp_path / "t.csv", [["f1", "", "2"]])
        (found,) = PresenceReader(5, presence_file=table).annotate([{"image": "a/f1.jpg", "case": "f1"}])
        assert (found["present"], found["phase"]) == ([], "2")

    def test_label_values_become_classes_in_the_order_that_counts(self):
        presence = PresenceReader(3, foreground_labels={"cholec": [7, 3]})
        (found,) = presence.annotate([self.CASE | {"listed": [0, 3, 5, 7]}])
        assert found["present"] == [1, 2]

    def test_masks_are_read_once(self):
        calls = []

        def counted(case):
            calls.append(case["case"])
            return reader(case)

        presence, case = PresenceReader(5, reader=counted), {"image": "i", "case": "c", "label": [1, 0]}
        assert presence.annotate([case])[0] == presence.annotate([case])[0]
        annotated = presence.annotate([case])
        assert presence.annotate(annotated) == annotated
        assert calls == ["c"]

    def test_file_is_told_by_its_folders(self, tmp_path):
        rows = [["v1/c/frame_2.png", "1", ""], ["v2/c/frame_2.png", "2", ""]]
        presence = PresenceReader(5, presence_file=write_table(tmp_path / "t.csv", rows))
        cases = [{"image": f"/data/v{n}/c/frame_2.png", "case": f"frame_2_{n}"} for n in (1, 2, 3)]
        found = presence.annotate(cases)
        assert [case.get("present") for case in found] == [[1], [2], None]

    @pytest.mark.parametrize("given", ["/data/v1/frame_2.png", "v1/frame_2.png", "./v1/frame_2.png", "frame_2.png"])
    def test_file_is_told_by_any_end_of_its_path(self, tmp_path, given):
        presence = PresenceReader(5, presence_file=write_table(tmp_path / "t.csv", [[given, "1", ""]]))
        (found,) = presence.annotate([{"image": "/data/v1/frame_2.png", "case": "other"}])
        assert found["present"] == [1]

    def test_file_that_is_listed_by_two_paths_is_one(self, tmp_path):
        presence = PresenceReader(5, presence_file=write_table(tmp_path / "t.csv", [["v1/frame_2.png", "1", ""]]))
        cases = [{"image": f"{folder}v1/frame_2.png", "case": "other"} for folder in ("/data/", "/data/v1/../")]
        assert [case["present"] for case in presence.annotate(cases)] == [[1], [1]]

    def test_name_of_several_files_is_refused(self, tmp_path):
        presence = PresenceReader(5, presence_file=write_table(tmp_path / "t.csv", [["frame_2.png", "1", ""]]))
        cases = [{"image": f"v{n}/frame_2.png", "case": f"v{n}"} for n in (1, 2)]
        both = "'frame_2.png', which both v1/frame_2.png and v2/frame_2.png are called"
        with pytest.raises(LabelError, match=re.escape(both)):
            presence.annotate(cases)

    def test_frames_are_in_the_order_of_their_numbers(self):
        cases = [{"image": f"{n}.png", "case": f"frame_{n}", "patient": "p"} for n in (10, 2, 1)]
        assert len(PresenceReader(5, phase_from="position").annotate([{"image": "i", "case": "²"}])) == 1
        found = PresenceReader(5, phase_from="position").annotate(cases)
        assert [case["phase"] for case in found] == ["2", "1", "0"]

    def test_class_beyond_those_of_the_network(self):
        with pytest.raises(LabelError, match="case 'f1' is said to show class 3, but out_channels is 3"):
            PresenceReader(3).annotate([self.CASE])


class TestTable:
    def test_missing_file(self, tmp_path):
        with pytest.raises(MissingDataError, match=r"presence_file .* does not exist; give a CSV with the columns"):
            read_presence(tmp_path / "none.csv")

    def test_missing_column(self, tmp_path):
        table = write_table(tmp_path / "t.csv", [["a", "1"]], ["frame", "classes"])
        with pytest.raises(
            MissingDataError, match=r"has the columns \['frame', 'classes'\]; it needs image and classes"
        ):
            read_presence(table)

    def test_class_that_is_no_number(self, tmp_path):
        table = write_table(tmp_path / "t.csv", [["a", "1 liver", ""]])
        with pytest.raises(
            LabelError, match="gives 'a' the classes '1 liver'; accepted are label values as whole numbers"
        ):
            read_presence(table)

    def test_rows_that_contradict_each_other(self, tmp_path):
        table = write_table(tmp_path / "t.csv", [["a.png", "1", ""], ["a", "2", ""]])
        with pytest.raises(LabelError, match="has two rows of 'a' that differ; keep one of them"):
            read_presence(table)

    def test_table_without_phases(self, tmp_path):
        table = write_table(tmp_path / "t.csv", [["a.png", "1 2"]], ["image", "classes"])
        assert read_presence(table)["a"] == read_presence(table)["a.png"] == {"classes": [1, 2], "phase": ""}

    def test_rows_and_numbers_of_phases(self):
        cases = [{"present": [1, 3], "phase": "b"}, {"present": []}, {"phase": "a"}, {"present": [2], "phase": "b"}]
        table, phase = presence_table(cases, 4)
        assert table.tolist() == [[1, 0, 1], [0, 0, 0], [-1, -1, -1], [0, 1, 0]]
        assert phase.tolist() == [1, -1, 0, 1]


def test_frames_that_do_not_tell_their_classes_are_left_out_with_a_warning(caplog):
    cases = [{"image": "a", "case": "a", "listed": [1]}, {"image": "b", "case": "b"}, {"image": "c", "case": "c"}]
    presence = PresenceReader(3)
    with caplog.at_level("WARNING"):
        assert [case["case"] for case in frames_to_learn(cases, presence, needed=True, used=True)] == ["a"]
    assert (
        "2 of 3 frames without a mask do not tell their classes and are left out, the first is case 'b'" in caplog.text
    )
    assert len(frames_to_learn(cases, presence, needed=False, used=True)) == 3
    assert frames_to_learn(cases, presence, needed=True, used=False) == []


class TestDraw:
    @pytest.fixture
    def frames(self):
        rng = np.random.default_rng(0)
        cases = [{"image": str(n), "task": "a", "present": [1] * int(rng.random() < 0.6)} for n in range(200)]
        cases[50]["present"], cases[120]["present"] = [1, 2], [3]
        return cases

    def test_share_of_frames_not_of_patients(self, frames):
        labeled, others = draw_frames(frames, 0.05, seed=1)
        assert (len(labeled), len(others)) == (10, 190)
        assert sorted(case["image"] for case in labeled + others) == sorted(case["image"] for case in frames)

    @pytest.mark.parametrize("seed", range(5))
    def test_every_class_is_among_the_first_frames(self, frames, seed):
        labeled, _ = draw_frames(frames, 0.015, seed=seed)
        assert len(labeled) == 3
        assert {name for case in labeled for name in case["present"]} == {1, 2, 3}

    def test_smaller_share_lies_within_a_larger_one(self, frames):
        small, large = ({c["image"] for c in draw_frames(frames, share, seed=2)[0]} for share in (0.03, 0.2))
        assert small < large
        assert small != {c["image"] for c in draw_frames(frames, 0.03, seed=3)[0]}

    def test_at_least_one_frame_of_every_task(self, frames):
        cases = frames + [case | {"task": "b"} for case in frames[:3]]
        assert Counter(case["task"] for case in draw_frames(cases, 0.01, seed=0)[0]) == {"a": 2, "b": 1}

    @pytest.mark.parametrize("fraction", [0, -1, 1.2])
    def test_share_that_is_none(self, frames, fraction):
        with pytest.raises(ConfigError, match=f"labeled_fraction is {fraction}; accepted is above 0, up to 1"):
            draw_frames(frames, fraction, seed=0)


class TestSplit:
    @pytest.fixture
    def folder(self, decathlon_folder):
        names = [f"v{n // 6}_{n}" for n in range(60)]
        items = [{"video": f"v{n // 6}", "classes": [0, 1 + n % 2], "phase": "p"} for n in range(60)]
        return decathlon_folder(names=names, items=items, labels={"0": "background", "1": "a", "2": "b"})

    def make(self, folder, tmp_path, **settings):
        given = {"val_fraction": 0.2, "test_fraction": 0.3, "labeled_fraction": 0.2, "presence": PresenceReader(3)}
        return ClasswiseSplit(str(folder), str(tmp_path), **(given | settings))

    def test_videos_are_never_torn_apart_but_the_labeled_frames_are_drawn_one_by_one(self, folder, tmp_path):
        split = self.make(folder, tmp_path)
        videos = {
            part: {case["patient"] for case in split.part(part)} for part in ("train", "unlabeled", "val", "test")
        }
        assert {part: len(names) for part, names in videos.items() if part in ("val", "test")} == {"val": 2, "test": 3}
        assert not videos["test"] & (videos["train"] | videos["unlabeled"] | videos["val"])
        assert not videos["val"] & (videos["train"] | videos["unlabeled"])
        assert len(split.part("train")) == 6
        assert videos["train"] & videos["unlabeled"]

    def test_frames_whose_masks_are_left_out_still_tell_their_classes(self, folder, tmp_path):
        split = self.make(folder, tmp_path)
        for case in split.part("unlabeled"):
            assert "label" not in case
            assert case["present"] == [1 + int(case["case"].split("_")[1]) % 2]
            assert case["phase"] == "p"

    def test_labeled_patients_when_asked(self, folder, tmp_path):
        split = self.make(folder, tmp_path, labeled_by="patient")
        videos = [{case["patient"] for case in split.part(part)} for part in ("train", "unlabeled")]
        assert len(videos[0]) == 1
        assert not videos[0] & videos[1]

    def test_other_ways_to_draw(self, folder, tmp_path):
        with pytest.raises(ConfigError, match="labeled_by is 'clip'; accepted are frame and patient"):
            self.make(folder, tmp_path, labeled_by="clip")
