"""What a training with class-wise pairs finds before it starts."""

import json

import pytest

from common.contrast.checks import ContrastivePreflight, weak_frames
from common.contrast.presence import PresenceReader
from common.errors import NotEnoughCasesError


def frames(classes, start=0):
    return [{"image": f"{start + n}.png", "case": str(start + n), "present": shown} for n, shown in enumerate(classes)]


@pytest.fixture
def preflight(tmp_path):
    def make(labeled, used, *, unlabeled=None, **settings):
        given = {"method": "both", "max_epochs": 2, "val_interval": 1, "distance": "nearest", "num_classes": 3}
        given |= {"output_dir": str(tmp_path), "save_dir": str(tmp_path / "m"), "presence": PresenceReader(3)}
        val = frames([[1]], 90)
        return ContrastivePreflight(
            labeled, used if unlabeled is None else unlabeled, val, used=used, **(given | settings)
        )

    return make


def test_classes_that_occur_once_are_counted_and_training_goes_on(preflight, caplog, tmp_path):
    with caplog.at_level("INFO"):
        preflight(frames([[1], [1, 2]]), frames([[1], [2], []], 10)).run()
    assert (
        "2 frame(s) with masks, 3 with their classes alone; 4 set(s) of classes, 0 frame(s) with a phase" in caplog.text
    )
    assert "3 of 5 training frames show a set of classes (in a phase) that no other shows" in caplog.text
    split = json.loads((tmp_path / "split.json").read_text())
    assert {part: sum(map(len, tasks.values())) for part, tasks in split.items()} == {
        "train": 2,
        "unlabeled": 3,
        "val": 1,
    }


def test_no_pair_at_all(preflight, caplog):
    with caplog.at_level("WARNING"):
        preflight(frames([[1]]), frames([[2], []], 10)).run()
    assert "no two of the 3 training frames show the same set of classes in the same phase" in caplog.text
    caplog.clear()
    preflight(frames([[1]]), frames([[2], []], 10), method="classification").run()
    assert "no two" not in caplog.text


def test_phases_missing_for_some_frames_still_make_pairs(preflight, caplog):
    labeled, others = frames([[1], [1]]), frames([[1]], 10)
    labeled[0]["phase"], labeled[1]["phase"] = "a", "b"
    with caplog.at_level("INFO"):
        preflight(labeled, others).run()
    assert "2 frame(s) with a phase" in caplog.text
    assert "no other shows" not in caplog.text


def test_class_without_a_mask_is_named(preflight, caplog):
    with caplog.at_level("WARNING"):
        preflight(frames([[1], [1]]), frames([[1, 2], [1, 2]], 10)).run()
    assert "class 2 never occurs in the frames with masks (2), so it cannot be segmented" in caplog.text


def test_classification_without_frames_to_classify(preflight, caplog):
    with caplog.at_level("WARNING"):
        preflight(frames([[1], [1]]), []).run()
    assert "every frame has a mask, so the classification learns nothing: set classify_all" in caplog.text
    caplog.clear()
    preflight(frames([[1], [1]]), [], classify_all=True).run()
    assert not [
        record for record in caplog.records if record.levelname == "WARNING" and "classify_all" in record.message
    ]


def test_frame_with_a_mask_is_needed(preflight):
    with pytest.raises(NotEnoughCasesError, match="no frame with a mask to train on"):
        preflight([], frames([[1], [1]])).run()


@pytest.mark.parametrize(
    ("method", "count", "taught"),
    [("unet", 0, 1), ("simclr", 2, 2), ("byol", 2, 2), ("both", 1, 1), ("contrastive", 1, 1)],
)
def test_methods_use_the_frames_they_can(method, count, taught):
    cases = [{"image": "a", "case": "a", "listed": [1]}, {"image": "b", "case": "b"}]
    assert len(weak_frames(cases, PresenceReader(3), method=method)) == count
    assert len(weak_frames(cases, PresenceReader(3), method=method, presence_weight=0.3)) == taught


def test_frames_that_tell_nothing_are_no_set_of_classes(preflight, caplog):
    silent = [{"image": "x.png", "case": "x"}]
    with caplog.at_level("INFO"):
        preflight(frames([[1], [2]]), frames([[1]], 10) + silent, method="simclr", presence_weight=0.3).run()
    assert "2 frame(s) with masks, 1 with their classes alone; 2 set(s) of classes" in caplog.text


def test_presence_losses_without_frames_to_learn_from(preflight, caplog):
    with caplog.at_level("WARNING"):
        preflight(frames([[1], [1]]), [], method="unet", presence_weight=0.3).run()
    assert "every frame has a mask, so presence_weight teaches nothing: add frames without masks" in caplog.text
    assert "pseudo_weight" not in caplog.text


def test_overlapping_sets_need_no_equal_one(preflight, caplog):
    with caplog.at_level("WARNING"):
        preflight(frames([[1]]), frames([[1, 2], [2]], 10), method="contrastive", positives="overlap").run()
    assert "no two" not in caplog.text


@pytest.mark.parametrize(("settings", "count"), [({}, 0), ({"presence_weight": 0.3}, 2), ({"pseudo_weight": 0.3}, 2)])
def test_presence_losses_learn_from_frames_that_tell_their_classes(settings, count):
    told = frames([[1], []])
    silent = [{"image": "x.png", "case": "x"}]
    assert weak_frames([*told, *silent], PresenceReader(3), method="unet", **settings) == told[:count]
