"""Evaluations on cases that the weights were trained on say so, and only these."""

import json

import pytest

from common.data import evaluation_cases
from common.data.seen import split_of_weights, training_case_count, warn_of_training_cases
from common.errors import MissingDataError

SPLIT = {
    "train": {"organ": ["a", "b"], "heart": ["c"]},
    "unlabeled": {"organ": ["u"]},
    "val": {"organ": ["v"]},
    "test": {"organ": ["t"]},
}


def cases(*names, **more):
    return [{"task": "organ", "case": name, "image": name} | more for name in names]


@pytest.mark.parametrize(
    ("given", "settings", "count"),
    [
        (cases("a", "b", "t", "x"), {}, 2),
        (cases("c", "t"), {}, 0),
        (cases("u", "v"), {}, 2),
        (cases("u", "v"), {"validation": False}, 1),
        (cases("a", phantom=True), {}, 0),
        ([], {}, 0),
    ],
)
def test_cases_are_told_by_data_set_and_name(given, settings, count):
    assert training_case_count(given, SPLIT, **settings) == count


@pytest.fixture
def weights(tmp_path):
    """Writes a split beside weights and returns their folder."""

    def write(split, place="my_run/models"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "split.json").write_text(json.dumps(split), encoding="utf-8")
        return folder

    return write


def test_warning_counts_and_says_what_to_do(weights, caplog):
    folder = weights(SPLIT)
    warn_of_training_cases(cases("a", "b", "v", "t"), folder)
    (line,) = caplog.messages
    assert line.startswith("3 of 4 scans evaluated were used in the training of these weights, so figures are too good")
    assert line.endswith(f": --split_file {folder / 'split.json'} takes its test part alone")
    caplog.clear()
    warn_of_training_cases(cases("a"), weights(SPLIT | {"test": {}}, "other"))
    assert caplog.messages[0].endswith(": train with --test_fraction 0.2 to keep others")


@pytest.mark.parametrize(("given", "asked"), [(("t",), "test"), (("v",), "val"), (("x",), None)])
def test_part_that_was_asked_for_is_no_reason_to_warn(weights, caplog, given, asked):
    warn_of_training_cases(cases(*given), weights(SPLIT), asked=asked)
    assert caplog.messages == []


def test_shipped_weights_have_their_split_in_docs_and_others_none(weights, tmp_path):
    docs = weights(SPLIT, "bundle/docs")
    (tmp_path / "bundle" / "models").mkdir()
    assert split_of_weights(tmp_path / "bundle" / "models") == docs / "split.json"
    assert split_of_weights(tmp_path) is None
    warn_of_training_cases(cases("a"), tmp_path)


@pytest.mark.parametrize("content", [[], {"train": ["a"]}])
def test_split_that_is_none_is_named(weights, content):
    with pytest.raises(MissingDataError, match=r"models/split.json is no split of a training .*; copy the weights'"):
        warn_of_training_cases(cases("a"), weights(content))


def test_evaluation_warns_of_its_in_distribution_cases(make_dataset, weights, tmp_path, caplog):
    known, other = make_dataset(tmp_path / "organ", 3), make_dataset(tmp_path / "heart", 2)
    folder = weights({"train": {"organ": ["case_0"], "heart": ["case_0"]}, "test": {"organ": ["case_2"]}})
    places = (str(known), str(other), str(tmp_path / "out"))
    evaluation_cases(*places, model_dir=str(folder), damages=["flip"])
    assert [line.partition(" scans")[0] for line in caplog.messages] == ["1 of 3"]
    caplog.clear()
    evaluation_cases(*places, model_dir=str(folder), split_file=str(folder / "split.json"))
    assert caplog.messages == []
