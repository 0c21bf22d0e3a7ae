import os
import time

import pytest

from common.label_app.ranking import CHANGED, VERDICT, is_fresh, judge_settled, rank_images, score_record, verdict_stamp
from common.spectral.verdict import RESULT


def scored(oodm, is_ood=False, stamp="now", model="m"):
    return score_record(model, {"oodm": oodm, "is_ood": is_ood}, stamp)


def ranked(infos, model="m"):
    return rank_images(infos, model, dict.fromkeys(infos, "now"))


def test_strangest_comes_first():
    infos = {"a": scored(0.1), "b": scored(0.7, True), "c": scored(0.0), "d": scored(0.2)}
    assert ranked(infos) == [
        {"id": "b", "oodm": 0.7, "is_ood": True},
        {"id": "d", "oodm": 0.2, "is_ood": False},
        {"id": "a", "oodm": 0.1, "is_ood": False},
        {"id": "c", "oodm": 0.0, "is_ood": False},
    ]


@pytest.mark.parametrize("order", [("a", "b", "c", "d"), ("d", "c", "b", "a"), ("c", "a", "d", "b")])
def test_images_without_a_score_come_last_by_name(order):
    infos = {"a": {}, "b": scored(None), "c": scored(0.0), "d": {"name": "d.nii.gz"}}
    ranking = ranked({name: infos[name] for name in order})
    assert [entry["id"] for entry in ranking] == ["c", "a", "b", "d"]
    assert [entry["oodm"] for entry in ranking] == [0.0, None, None, None]


def test_equal_scores_come_by_name():
    assert [entry["id"] for entry in ranked({"b": scored(1.0), "a": scored(1.0)})] == ["a", "b"]


def test_stale_score_is_none():
    ranking = ranked({"a": scored(0.9, True, stamp="before"), "b": scored(0.1)})
    assert ranking == [{"id": "b", "oodm": 0.1, "is_ood": False}, {"id": "a", "oodm": None, "is_ood": None}]


def test_every_image_has_a_stamp_of_its_own():
    infos = {"a": scored(0.9, True, stamp="one"), "b": scored(0.8, stamp="two"), "c": scored(0.7, stamp="one")}
    ranking = rank_images(infos, "m", {"a": "two", "b": "two", "c": "one"})
    assert [(entry["id"], entry["oodm"]) for entry in ranking] == [("b", 0.8), ("c", 0.7), ("a", None)]


def test_scores_of_models_stand_side_by_side():
    infos = {"a": scored(0.1) | scored(0.9, model="n"), "b": scored(0.2) | scored(0.8, model="n")}
    assert [entry["id"] for entry in ranked(infos)] == ["b", "a"]
    assert [entry["id"] for entry in ranked(infos, "n")] == ["a", "b"]


def test_no_image_no_ranking():
    assert ranked({}) == []


def test_record_overwrites_all_of_the_last_one():
    last = score_record("m", {"oodm": 0.5, "threshold": 0.4, "is_ood": True, "reason": None, "code": 1}, "before")
    assert last | score_record("m", {"reason": "unreadable"}, "") == {
        **{f"{name}_m": None for name in VERDICT},
        "reason_m": "unreadable",
        "stamp_m": "",
    }


def test_failed_score_is_never_fresh(tmp_path):
    stamp = verdict_stamp([tmp_path / "model.pt"], tmp_path / "scan.nii.gz")
    assert not is_fresh(score_record("m", {"reason": "unreadable"}, ""), "m", stamp)
    assert is_fresh(score_record("m", {"oodm": 0.1}, stamp), "m", stamp)


def test_stamp_follows_contents_of_models_not_times(tmp_path):
    weights, bank, image = tmp_path / "model.pt", tmp_path / "signature_bank.npz", tmp_path / "scan.nii.gz"
    image.write_bytes(b"scan")
    stamps = [verdict_stamp([weights, bank], image)]
    weights.write_bytes(b"one")
    stamps.append(verdict_stamp([weights, bank], image))
    bank.write_bytes(b"one")
    stamps.append(verdict_stamp([weights, bank], image))
    weights.write_bytes(b"two")
    os.utime(weights, (0, 0))
    stamps.append(verdict_stamp([weights, bank], image))
    time.sleep(0.02)
    weights.write_bytes(b"six")
    os.utime(weights, (0, 0))
    stamps.append(verdict_stamp([weights, bank], image))
    assert len(set(stamps)) == 5, "also with size and time of what was replaced"
    weights.write_bytes(b"one")
    assert verdict_stamp([str(weights), str(bank)], str(image)) == stamps[2]


def test_stamp_follows_the_image(tmp_path):
    image = tmp_path / "scan.nii.gz"
    stamps = [verdict_stamp([], image)]
    for content, when in [(b"one", 1), (b"three", 1), (b"three", 2)]:
        image.write_bytes(content)
        os.utime(image, (when, when))
        stamps.append(verdict_stamp([], image))
    assert verdict_stamp([], str(image)) == stamps[-1]
    other = tmp_path / "other.nii.gz"
    other.write_bytes(b"one")
    assert verdict_stamp([], image) == stamps[-1], "other images do not count"
    assert len({*stamps, verdict_stamp([], other)}) == 5


def test_stamp_follows_every_file_of_a_series(tmp_path):
    series = tmp_path / "series"
    (series / "deep").mkdir(parents=True)
    stamps = [verdict_stamp([], series)]
    slices = [series / "1.dcm", series / "deep" / "2.dcm"]
    for path in slices:
        path.write_bytes(b"slice")
        stamps.append(verdict_stamp([], series))
    assert verdict_stamp([], series) == stamps[-1]
    slices[1].write_bytes(b"another")
    stamps.append(verdict_stamp([], series))
    slices[0].unlink()
    stamps.append(verdict_stamp([], series))
    assert len(set(stamps)) == 5


def test_verdict_of_files_that_stay_is_fresh():
    verdict = dict.fromkeys(VERDICT) | {
        "oodm": 0.3,
        "threshold": 0.2,
        "is_ood": True,
        "p_value": 0.1,
        "reasons": "noise",
    }
    record = judge_settled("m", lambda: verdict, lambda: "now")
    assert record == {f"{name}_m": value for name, value in verdict.items()} | {"stamp_m": "now"}


def test_kept_verdict_is_all_that_a_bundle_says():
    assert set(VERDICT) == set(RESULT)


def test_verdict_of_files_replaced_meanwhile_is_no_score(tmp_path):
    weights, image = tmp_path / "model.pt", tmp_path / "scan.nii.gz"
    weights.write_bytes(b"old")

    def judge():
        weights.write_bytes(b"trained")
        return {"oodm": 0.3, "threshold": 0.2, "is_ood": True, "reason": None}

    record = judge_settled("m", judge, lambda: verdict_stamp([weights], image))
    assert record == score_record("m", {"reason": CHANGED}, "")
    assert not is_fresh(record, "m", verdict_stamp([weights], image))
