import os

import pytest

from common.label_app.ranking import files_stamp, is_fresh, rank_images, score_record


def scored(oodm, is_ood=False, stamp="now", model="m"):
    return score_record(model, {"oodm": oodm, "is_ood": is_ood}, stamp)


def test_strangest_comes_first():
    infos = {"a": scored(0.1), "b": scored(0.7, True), "c": scored(0.0), "d": scored(0.2)}
    assert rank_images(infos, "m", "now") == [
        {"id": "b", "oodm": 0.7, "is_ood": True},
        {"id": "d", "oodm": 0.2, "is_ood": False},
        {"id": "a", "oodm": 0.1, "is_ood": False},
        {"id": "c", "oodm": 0.0, "is_ood": False},
    ]


@pytest.mark.parametrize("order", [("a", "b", "c", "d"), ("d", "c", "b", "a"), ("c", "a", "d", "b")])
def test_images_without_a_score_come_last_by_name(order):
    infos = {"a": {}, "b": scored(None), "c": scored(0.0), "d": {"name": "d.nii.gz"}}
    ranking = rank_images({name: infos[name] for name in order}, "m", "now")
    assert [entry["id"] for entry in ranking] == ["c", "a", "b", "d"]
    assert [entry["oodm"] for entry in ranking] == [0.0, None, None, None]


def test_equal_scores_come_by_name():
    assert [entry["id"] for entry in rank_images({"b": scored(1.0), "a": scored(1.0)}, "m", "now")] == ["a", "b"]


def test_stale_score_is_none():
    ranking = rank_images({"a": scored(0.9, True, stamp="before"), "b": scored(0.1)}, "m", "now")
    assert ranking == [{"id": "b", "oodm": 0.1, "is_ood": False}, {"id": "a", "oodm": None, "is_ood": None}]


def test_scores_of_models_stand_side_by_side():
    infos = {"a": scored(0.1) | scored(0.9, model="n"), "b": scored(0.2) | scored(0.8, model="n")}
    assert [entry["id"] for entry in rank_images(infos, "m", "now")] == ["b", "a"]
    assert [entry["id"] for entry in rank_images(infos, "n", "now")] == ["a", "b"]


def test_no_image_no_ranking():
    assert rank_images({}, "m", "now") == []


def test_record_overwrites_all_of_the_last_one():
    last = score_record("m", {"oodm": 0.5, "threshold": 0.4, "is_ood": True, "reason": None, "code": 1}, "before")
    assert last | score_record("m", {"reason": "unreadable"}, "") == {
        "oodm_m": None,
        "threshold_m": None,
        "is_ood_m": None,
        "reason_m": "unreadable",
        "stamp_m": "",
    }


def test_failed_score_is_never_fresh(tmp_path):
    stamp = files_stamp([tmp_path / "model.pt"])
    assert not is_fresh(score_record("m", {"reason": "unreadable"}, ""), "m", stamp)
    assert is_fresh(score_record("m", {"oodm": 0.1}, stamp), "m", stamp)


def test_stamp_follows_contents_not_times(tmp_path):
    weights, bank = tmp_path / "model.pt", tmp_path / "signature_bank.npz"
    stamps = [files_stamp([weights, bank])]
    weights.write_bytes(b"one")
    stamps.append(files_stamp([weights, bank]))
    bank.write_bytes(b"one")
    stamps.append(files_stamp([weights, bank]))
    weights.write_bytes(b"two")
    os.utime(weights, (0, 0))
    stamps.append(files_stamp([weights, bank]))
    assert len(set(stamps)) == 4
    weights.write_bytes(b"one")
    assert files_stamp([str(weights), str(bank)]) == stamps[2]
