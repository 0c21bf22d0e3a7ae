"""Names of the classes that a training learns."""

import json

import pytest

from common.data import named_classes


@pytest.fixture
def case_of(tmp_path):
    """Makes a case of a data set with these labels."""

    def make(task, labels, **more):
        (tmp_path / task / "labelsTr").mkdir(parents=True)
        (tmp_path / task / "dataset.json").write_text(json.dumps({"labels": labels}))
        return {"label": str(tmp_path / task / "labelsTr" / "a.nii.gz"), "task": task} | more

    return make


LABELS = {"0": "background", "1": "anterior", "2": "posterior"}


@pytest.mark.parametrize(
    ("out_channels", "sigmoid", "kept", "expected"),
    [
        (2, True, None, {"1": "anterior", "2": "posterior"}),
        (3, False, None, {"1": "anterior", "2": "posterior"}),
        (1, True, {"a": [2]}, {"1": "posterior"}),
        (1, True, {"b": [2]}, {"1": "anterior and posterior"}),
        (1, True, {"a": [1, 7]}, {"1": "class 1"}),
        (1, True, None, {"1": "anterior and posterior"}),
        (2, True, {"a": [1, 7]}, {"1": "class 1", "2": "class 2"}),
    ],
)
def test_names_are_those_of_the_data_set_in_the_order_of_the_channels(case_of, out_channels, sigmoid, kept, expected):
    cases = [case_of("a", LABELS), {"image": "unlabeled", "task": "b"}]
    assert named_classes(cases, out_channels, sigmoid=sigmoid, foreground_labels=kept) == expected


def test_data_sets_must_agree_on_names(case_of):
    same, other = case_of("b", LABELS), case_of("c", LABELS | {"2": "tail"})
    given = {"sigmoid": True, "foreground_labels": None}
    assert named_classes([case_of("a", LABELS), same], 2, **given) == {"1": "anterior", "2": "posterior"}
    assert named_classes([same, other], 2, **given) == {"1": "class 1", "2": "class 2"}


def test_classes_without_a_listing_are_numbered(tmp_path):
    case = {"label": str(tmp_path / "a" / "b" / "label.nii.gz"), "task": "a"}
    assert named_classes([case], 3, sigmoid=False, foreground_labels=None) == {"1": "class 1", "2": "class 2"}


def test_cases_that_are_set_from_outside_are_of_the_classes_of_the_weights(tmp_path):
    cases = [{"image": "a.png", "label": str(tmp_path / "a" / "b" / f"{index}.png")} for index in range(2)]
    assert named_classes(cases, 3, sigmoid=False, foreground_labels=None) == {}


def test_many_classes_that_are_learned_as_one_are_counted(case_of):
    labels = {str(value): f"structure {value}" for value in range(1, 5)}
    assert named_classes([case_of("a", labels)], 1, sigmoid=True, foreground_labels=None) == {"1": "4 classes as one"}


def test_data_set_of_other_classes_than_the_network_learns_is_told(case_of, caplog):
    caplog.set_level("INFO")
    named_classes([case_of("a", LABELS)], 3, sigmoid=True, foreground_labels=None)
    named_classes([case_of("p", LABELS, phantom=True)], 3, sigmoid=True, foreground_labels=None)
    assert caplog.messages == [
        "data set 'a' has 2 class(es), the network learns 3: results name none; the command plan chooses such settings "
        "from the data"
    ]
