import csv
import hashlib
import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation

from common.errors import CasesFailedError, MissingDataError, OutputError
from common.figures.slices import telling_slice
from common.handlers import Attach, CaseRecorder, OODReport
from common.handlers.recorder import verdict_text
from common.spectral import SignatureBank

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


@pytest.fixture
def bank_file(tmp_path):
    path = tmp_path / "bank.npz"
    SignatureBank.fit(np.eye(3), weights_digest="f" * 64).save(path)
    return str(path)


def read_report(folder):
    with open(folder / "ood_report.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file)), json.loads((folder / "ood_report.json").read_text())


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


def test_recorder_logs_every_case_with_its_verdict(run_cases, caplog):
    with caplog.at_level("INFO", logger="common.handlers.recorder"):
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


def test_report_has_a_line_for_every_scan_and_a_gallery(run_cases, tmp_path, bank_file, read_picture):
    report = OODReport(str(tmp_path / "out"), bank_file)
    run_cases(report, [reported("a"), reported("b", STRANGE), reported("c", NONE)])
    report.finish()
    lines, content = read_report(tmp_path / "out")
    assert lines == [
        {"image": "a", "oodm": "0.1", "threshold": "0.25", "is_ood": "False", "error": ""},
        {"image": "b", "oodm": "0.5", "threshold": "0.25", "is_ood": "True", "error": ""},
        {"image": "c", "oodm": "", "threshold": "", "is_ood": "", "error": "no signature bank"},
    ]
    assert content["rows"][1] == {"image": "b", "oodm": 0.5, "threshold": 0.25, "is_ood": True, "error": None}
    assert [row["image"] for row in content["rows"]] == ["a", "b", "c"]
    with open(bank_file, "rb") as file:
        assert content["bank_digest"] == hashlib.sha256(file.read()).hexdigest()
    assert content["weights_digest"] == "f" * 64
    read_picture(tmp_path / "out" / "gallery.png")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["gallery.png", "ood_report.csv", "ood_report.json"]


def test_failed_scan_has_its_line_and_ends_the_run_after_writing(run_cases, tmp_path, bank_file):
    report = OODReport(str(tmp_path), bank_file)
    run_cases(report, [reported("a", error="a is broken"), reported("b", STRANGE)])
    with pytest.raises(CasesFailedError, match=r"1 of 2 case\(s\) failed.*a is broken.*ood_report\.csv"):
        report.finish()
    lines, content = read_report(tmp_path)
    assert lines[0] == {"image": "a", "oodm": "", "threshold": "", "is_ood": "", "error": "a is broken"}
    assert lines[1]["is_ood"] == "True"
    assert len(content["rows"]) == 2
    assert (tmp_path / "gallery.png").is_file()


@pytest.fixture
def shown(monkeypatch):
    """The texts of the gallery in place of its picture."""
    texts = []
    monkeypatch.setattr(
        "common.handlers.recorder.draw_gallery", lambda pictures, path: texts.extend(text for _, _, text in pictures)
    )
    return texts


def test_strange_scans_come_first_in_the_gallery(run_cases, tmp_path, bank_file, shown):
    report = OODReport(str(tmp_path), bank_file, pictures=3)
    verdicts = {"a": KNOWN, "b": STRANGE, "c": NONE, "d": STRANGE}
    run_cases(report, [reported(case, result) for case, result in verdicts.items()])
    report.finish()
    assert shown == ["b\nOUT OF DISTRIBUTION", "d\nOUT OF DISTRIBUTION", "a\nin distribution"]


def test_no_more_slices_are_kept_than_can_be_shown(run_cases, tmp_path, bank_file, shown):
    report = OODReport(str(tmp_path), bank_file, pictures=2)
    verdicts = [KNOWN, STRANGE, NONE, KNOWN, STRANGE, STRANGE, KNOWN]
    cases = [reported(f"c{k}", verdict) for k, verdict in enumerate(verdicts)]
    run_cases(report, [*cases, reported("bad", error="broken")])
    texts = {strange: [text for *_, text in slices] for strange, slices in report.slices.items()}
    assert texts == {
        True: ["c1\nOUT OF DISTRIBUTION", "c4\nOUT OF DISTRIBUTION"],
        False: ["c0\nin distribution", "c2\nno verdict"],
    }
    assert len(report.rows) == 8
    with pytest.raises(CasesFailedError):
        report.finish()
    assert shown == texts[True]


def test_known_scans_fill_the_gallery_where_strange_ones_are_few(run_cases, tmp_path, bank_file, shown):
    report = OODReport(str(tmp_path), bank_file, pictures=3)
    run_cases(report, [reported(f"c{k}", STRANGE if k == 4 else KNOWN) for k in range(5)])
    report.finish()
    assert [text.split()[0] for text in shown] == ["c4", "c0", "c1"]


def test_report_can_do_without_pictures(run_cases, tmp_path, bank_file):
    report = OODReport(str(tmp_path / "out"), bank_file, pictures=0)
    run_cases(report, [reported("a"), reported("b", STRANGE)])
    report.finish()
    assert report.slices == {True: [], False: []}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ood_report.csv", "ood_report.json"]


def test_gallery_of_a_second_run_forgets_the_first(run_cases, tmp_path, bank_file, shown):
    report = OODReport(str(tmp_path), bank_file)
    for case in ("a", "b"):
        run_cases(report, [reported(case)])
    report.finish()
    assert shown == ["b\nin distribution"]


def test_slice_shows_image_and_segmentation_in_the_same_orientation(run_cases, tmp_path, bank_file):
    # The scan is stored as PSR; its image comes in RAS and the segmentation in the scan's own orientation.
    affine = torch.tensor([[0, 0, 2.0, 0], [-1, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    scan = MetaTensor(torch.rand(1, 4, 5, 6, generator=torch.Generator().manual_seed(0)), affine=affine)
    image = Orientation("RAS", labels=None)(scan)
    batch, output = reported("a")
    report = OODReport(str(tmp_path), bank_file)
    run_cases(report, [(batch | {"image": image}, output | {"pred": (scan > 0.7).to(torch.uint8)})])
    ((picture, outline, _),) = report.slices[False]
    assert np.array_equal(outline, (picture > 0.7).astype(float))
    assert outline.any()


def test_report_needs_its_bank_and_a_folder(run_cases, tmp_path, bank_file):
    without = OODReport(str(tmp_path), str(tmp_path / "absent.npz"))
    with pytest.raises(MissingDataError, match=r"no signature bank at .*absent\.npz"):
        without.finish()
    with pytest.raises(OutputError, match=r"cannot write .*ood_report\.csv"):
        OODReport(bank_file, bank_file).finish()


def test_named_handler_is_attached_to_the_engine(run_cases):
    recorder = CaseRecorder()
    run_cases(Attach(recorder), [reported("a")])
    assert [row["case"] for row in recorder.rows] == ["a"]
