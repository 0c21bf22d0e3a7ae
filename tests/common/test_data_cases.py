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
from common.data.split import select_cases, training_cases, write_split
from common.errors import BundleError, ImageError, MissingDataError
from common.transforms import LoadScand
from tests.common.cases import names


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
    ("item", "whom"),
    [
        ({"patient": "p", "operation": "p_1", "video": "v"}, "p_1"), ({"patient": "p", "video": "v"}, "p"),
        ({"video": "v"}, "v"),
    ],
)  # fmt: skip
def test_frames_are_told_apart_by_operation_then_by_patient(decathlon_folder, item, whom):
    assert decathlon_cases(decathlon_folder(names=("a",), items=[item]))[0]["patient"] == whom


@pytest.mark.parametrize(
    ("text", "modality"), [("CT", "CT"), ("ct scan", "CT"), ("MRI", "MR"), ("mr", "MR"), ("US", None)]
)
def test_modality_is_read_from_the_listing(decathlon_folder, text, modality):
    assert decathlon_cases(decathlon_folder(modality={"0": text}))[0].get("modality") == modality


@pytest.mark.parametrize(
    ("listing", "text"),
    [
        (None, "holds no dataset.json; expected is a Decathlon folder"),
        ("{", r"is no Decathlon listing \(no JSON at line 1, column 2\); it needs"),
        ("[]", r"is no Decathlon listing \(it holds a list\); it needs a list 'training'"),
        ("[" * 100_000, r"is no Decathlon listing \(brackets nested too deeply\); it needs a list 'training'"),
        ('{"training": [' * 50_000, "brackets nested too deeply"),
        ('{"labels": {"1' + "0" * 5000 + '": "x"}, "training": ["a"]}', "is no Decathlon listing"),
        ('{"training": 3}', r"is no Decathlon listing \(its 'training' is no list\); it needs a list 'training'"),
        ('{"modality": "CT", "training": []}', r"\(its 'modality' is not \{number: name\}\); it needs"),
        ('{"labels": {"x": "y"}, "training": []}', r"\(its 'labels' is not \{number: name\}\); it needs"),
        ('{"labels": 1' + "0" * 5000 + "}", r"\(it holds a number of too many digits\); it needs"),
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
    with pytest.raises(MissingDataError, match=r"is no Decathlon listing \(its text is not UTF-8\)"):
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


MISSING = ["absent.nii.gz", "a\0b.nii.gz", "a" * 300 + ".nii.gz", "../absent.nii.gz"]


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


MALFORMED = [
    ({"label": "b.nii.gz"}, "has no 'image'"),
    ({"image": None, "label": "b.nii.gz"}, "has null as its image"),
    ({"image": "a.nii.gz", "label": 7}, "has 7 as its label"),
    (7, "has 7 as its image"),
    (float("inf"), "has Infinity as its image"),
    (None, "has null as its image"),
    ("", "has an empty text as its image"),
    (["a.nii.gz"], r'has \["a.nii.gz"\] as its image'),
    ("imagesTr", "has the folder imagesTr as its image"),
    (".", r"has the folder \. as its image"),
]


@pytest.mark.parametrize(("item", "fault"), MALFORMED, ids=str)
def test_malformed_item_is_a_case_for_inference_and_an_error_for_training(decathlon_folder, tmp_path, item, fault):
    folder = decathlon_folder(training=[{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}, item])
    line = rf"item 2 of the list 'training' of .*dataset\.json {fault}; accepted are the path of .*; correct the item$"
    for refuse in (decathlon_cases, find_scans, lambda root: labeled_cases(str(root), tmp_path)):
        with pytest.raises(MissingDataError, match=rf"^{line}"):
            refuse(folder)
    for cases in (
        evaluation_cases(str(folder), None, str(tmp_path / "out")),
        scans_to_segment(str(folder), str(tmp_path / "out")),
    ):
        assert names(cases) == ["a", "training_item_2"]
        with pytest.raises(ImageError, match=rf"^case 'training_item_2': {line}"):
            LoadScand(["image", "label"], allow_missing_keys=True)(cases[1])


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"dataset_dir .*absent does not exist"):
        decathlon_cases(tmp_path / "absent")
    (tmp_path / "note.txt").touch()
    with pytest.raises(MissingDataError, match=r"dataset_dir .*note.txt is no folder; expected is a Decathlon folder"):
        decathlon_cases(tmp_path / "note.txt")


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


@pytest.mark.parametrize(
    ("flags", "folder"), [([True, True], "out/models"), ([True, False], "given"), ([False], "given"), ([], "given")]
)
def test_weights_of_phantoms_never_go_to_the_shipped_ones(flags, folder):
    cases = [{"case": "x"} | ({"phantom": True} if flag else {}) for flag in flags]
    assert weights_folder(cases, "given", "out") == folder
