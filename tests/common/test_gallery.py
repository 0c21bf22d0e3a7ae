"""The picture of every group that an evaluation judges."""

import pytest
import torch

from common.handlers import EvaluationGallery
from common.handlers.gallery import class_map, gallery_title

INSIDE = {"oodm": 0.1, "threshold": 0.25, "is_ood": False}
OUTSIDE = {"oodm": 0.5, "threshold": 0.25, "is_ood": True}


def judged(group, result=INSIDE, **output):
    """What an engine leaves of a case: a volume of which the third slice holds foreground."""
    pred = torch.zeros(2, 6, 5, 4)
    pred[0, ...], pred[1, 1:3, 1:3, 2] = 0.4, 0.9
    return {"group": group, "image": torch.rand(1, 6, 5, 4)}, {"pred": pred, "result": result, **output}


def test_first_cases_of_every_group_are_drawn(run_cases, tmp_path, read_picture):
    gallery = EvaluationGallery(str(tmp_path), softmax=True, pictures=2)
    run_cases(gallery, [judged("a"), ({"group": "a"}, {"error": "broken"}), *[judged("a")] * 3, judged("b", OUTSIDE)])
    assert {group: len(shown) for group, shown in gallery.groups.items()} == {"a": 2, "b": 1}
    read_picture(tmp_path / "gallery.png")


@pytest.mark.parametrize(("softmax", "voxels"), [(True, 4), (False, 4)])
def test_outline_is_that_of_the_foreground(run_cases, tmp_path, softmax, voxels):
    gallery = EvaluationGallery(str(tmp_path), softmax=softmax)
    run_cases(gallery, [judged("a")])
    _image, outline, _text = gallery.groups["a"][0]
    assert (outline > 0).sum() == voxels


def test_legend_names_the_classes_of_the_weights(run_cases, tmp_path, monkeypatch, repository):
    seen = {}
    monkeypatch.setattr("common.handlers.gallery.draw_gallery", lambda pictures, _path, **given: seen.update(given))
    metadata = str(repository / "bundles" / "spectral_ood" / "configs" / "metadata.json")
    names = {"1": "anterior", "2": "posterior"}
    run_cases(EvaluationGallery(str(tmp_path), metadata_file=metadata, class_names=names), [judged("a")])
    assert seen["names"] == {1: "anterior", 2: "posterior"}


def test_second_run_forgets_the_first(run_cases, tmp_path):
    gallery = EvaluationGallery(str(tmp_path))
    run_cases(gallery, [judged("a")])
    run_cases(gallery, [judged("b")])
    assert list(gallery.groups) == ["b"]


def test_nothing_is_drawn_where_every_case_failed(run_cases, tmp_path):
    run_cases(EvaluationGallery(str(tmp_path)), [({"group": "a"}, {"error": "broken"})])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ({"result": OUTSIDE | {"oodm": 8.33681}}, "organ\nOUT OF DISTRIBUTION\nOODM 8.337, threshold 0.2500"),
        (
            {"result": INSIDE, "metrics": {"1": {"dsc": 0.5}, "2": {"dsc": 0.7}}},
            "organ, Dice 0.60\nin distribution\nOODM 0.1000, threshold 0.2500",
        ),
        (
            {"result": INSIDE | {"expected_dice": 0.912, "expected_dice_low": 0.8}},
            "organ\nin distribution\nOODM 0.1000, threshold 0.2500\nexpected Dice 0.91, at least 0.80",
        ),
        ({"result": {"oodm": None}, "metrics": {"1": {"dsc": float("nan")}}}, "organ\nno verdict"),
    ],
)
def test_title_tells_group_dice_and_verdict(output, text):
    assert gallery_title({"group": "organ"}, output) == text


def test_every_case_has_a_thumbnail_in_its_place(run_cases, tmp_path):
    gallery = EvaluationGallery(str(tmp_path), pictures=1)
    run_cases(gallery, [judged("a"), ({"group": "a"}, {"error": "broken"}), judged("a")])
    assert [picture[:15] for picture in gallery.thumbnails] == ["data:image/jpeg", "", "data:image/jpeg"]


@pytest.mark.parametrize(("softmax", "expected"), [(True, [[1, 0], [2, 1]]), (False, [[1, 2], [2, 0]])])
def test_classes_are_those_of_channels(softmax, expected):
    pred = torch.tensor([[[0.1, 0.6], [0.2, 0.2]], [[0.9, 0.1], [0.3, 0.3]], [[0.0, 0.3], [0.5, 0.1]]])
    if not softmax:
        pred = torch.tensor([[[0.9, 0.6], [0.2, 0.2]], [[0.1, 0.7], [0.6, 0.3]]])
    assert class_map(pred, rivals=softmax)[0].tolist() == expected
