import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.errors import CasesFailedError
from common.figures.slices import telling_slice
from common.handlers import Attach, CaseRecorder
from common.handlers.recorder import verdict_text

KNOWN = {"oodm": 0.1, "threshold": 0.25, "is_ood": False, "reason": None}
STRANGE = {"oodm": 0.5, "threshold": 0.25, "is_ood": True, "reason": None}
NONE = {"oodm": None, "threshold": None, "is_ood": None, "reason": "no signature bank"}


def reported(case, result=None, error=None, **more):
    """What an engine leaves of a case: the description with the image, and the output with the segmentation."""
    if error:
        return {"case": case, "group": "organ"}, {"error": error}
    image = torch.rand(1, 6, 5, 4, generator=torch.Generator().manual_seed(len(case)))
    batch = {"case": case, "group": "organ", "in_distribution": True, "image": MetaTensor(image), "task": "organ"}
    pred = MetaTensor((image > 0.6).to(torch.uint8))
    output = {"pred": pred, "label": pred, "result": result or KNOWN, "signature": torch.ones(3), **more}
    return batch, output


def test_rows_hold_description_and_results_without_images(run_cases):
    recorder = CaseRecorder()
    metrics = {"1": {"dsc": 0.5}}
    run_cases(recorder, [reported("a", metrics=metrics, calibration_bins=torch.ones(3, 10)), reported("b", STRANGE)])
    first, second = recorder.rows
    keys = {"case", "group", "in_distribution", "result", "signature"}
    assert set(first) == keys | {"metrics", "calibration_bins"}
    assert set(second) == keys
    assert (first["case"], first["group"], first["result"], first["metrics"]) == ("a", "organ", KNOWN, metrics)
    assert (second["case"], second["result"]) == ("b", STRANGE)
    assert recorder.failed == []


def test_second_run_forgets_the_first(run_cases):
    recorder = CaseRecorder()
    for cases in (["a", "b"], ["c"]):
        run_cases(recorder, [reported(case) for case in cases])
    assert [row["case"] for row in recorder.rows] == ["c"]


def test_log_for_debugging_has_every_case_with_its_verdict(run_cases, caplog):
    with caplog.at_level("DEBUG", logger="common.handlers.recorder"):
        run_cases(CaseRecorder(), [reported("a"), reported("b", error="broken")])
    messages = [record.getMessage() for record in caplog.records if record.name == "common.handlers.recorder"]
    assert messages == [
        "1 of 2: a OODM 0.1000, threshold 0.2500: in distribution",
        "2 of 2: b failed",
    ]


def test_failed_cases_end_a_run_with_their_number_the_first_reason_and_the_report(run_cases):
    recorder = CaseRecorder()
    cases = [reported("a"), reported("b", error="b is broken"), reported("c", error="c is empty")]
    run_cases(recorder, cases)
    assert recorder.failed == [{"case": "b", "group": "organ", "error": "b is broken"}, recorder.rows[2]]
    text = r"2 of 3 case\(s\) failed, the others are complete; the first: b is broken \(all in out/report\.csv\)"
    with pytest.raises(CasesFailedError, match=text):
        recorder.raise_if_failed("out/report.csv")


def test_run_without_failed_cases_ends_well(run_cases):
    recorder = CaseRecorder()
    run_cases(recorder, [reported("a")])
    recorder.raise_if_failed("report.csv")
    assert recorder.failed == []


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"result": KNOWN}, "OODM 0.1000, threshold 0.2500: in distribution"),
        ({"result": STRANGE}, "OODM 0.5000, threshold 0.2500: OUT OF DISTRIBUTION"),
        ({"result": NONE}, "no verdict: no signature bank"),
        ({"result": {}}, "no verdict: no signature was computed"),
        ({}, "no verdict: no signature was computed"),
        ({"result": KNOWN, "error": "disk full"}, "failed"),
    ],
)
def test_verdict_in_a_few_words(row, text):
    assert verdict_text(row) == text


@pytest.mark.parametrize(("fill", "index"), [({1: 3, 3: 7}, 3), ({0: 1}, 0), ({}, 2)])
def test_slice_with_most_foreground_is_shown(fill, index):
    image = torch.arange(2 * 4 * 3 * 5.0).reshape(2, 4, 3, 5)
    segmentation = torch.zeros(1, 4, 3, 5, dtype=torch.uint8)
    for where, voxels in fill.items():
        segmentation[0, ..., where].view(4, 3)[:3] = (torch.arange(9).reshape(3, 3) < voxels).to(torch.uint8) * 2
    picture, outline = telling_slice(image, segmentation)
    assert picture.dtype == outline.dtype == np.float32
    assert picture.base is outline.base is None, "a view would keep the whole volume"
    assert np.array_equal(picture, image[0, ..., index].numpy())
    assert np.array_equal(outline, segmentation[0, ..., index].numpy())


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_picture_is_shown_as_it_is_in_colors_where_it_has_them(channels):
    image, segmentation = torch.rand(channels, 4, 5), torch.arange(20.0).reshape(1, 4, 5)
    for classes in (segmentation, segmentation[0]):
        picture, outline = telling_slice(image, classes)
        assert np.array_equal(picture, image.movedim(0, -1).numpy() if channels == 3 else image[0].numpy())
        assert np.array_equal(outline, segmentation[0].numpy())


def test_named_handler_is_attached_to_the_engine(run_cases):
    recorder = CaseRecorder()
    run_cases(Attach(recorder), [reported("a")])
    assert [row["case"] for row in recorder.rows] == ["a"]
