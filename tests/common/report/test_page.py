"""The page of the report: there after every run, also of one that was stopped, failed, or went on."""

import os

import pytest

from common.errors import CasesFailedError
from common.handlers.verdicts import JOURNAL
from tests.common.page.pages import Page
from tests.common.report.inference import NONE, STRANGE, Inference, rows_of


def page_of(folder):
    return Page(folder / "report.html")


def test_page_shows_what_the_table_holds(tmp_path, bank_file, scans):
    inference = Inference(
        tmp_path / "out", bank_file, scans[:4], {"b": STRANGE, "c": NONE}, fails={"d": "d is <broken>"}
    )
    with pytest.raises(CasesFailedError):
        inference.run()
    page, rows = page_of(tmp_path / "out"), rows_of(tmp_path / "out")
    assert [line["name"] for line in page.lines] == [row["image"] for row in rows] == list("abcd")
    assert [line["class"] for line in page.lines] == ["in", "out", "none failed", "none failed"]
    failed = [row["error"] for row in rows if row["error"]]
    assert [line["reasons"] for line in page.lines if line["class"] == "none failed"] == failed
    assert len(page.all("img")) == 4, "a scan that could be loaded is shown, whatever failed afterwards"


def test_stopped_run_has_its_page_and_the_finished_one_is_that_of_a_whole_run(tmp_path, bank_file, scans):
    stopped = Inference(tmp_path / "out", bank_file, scans, fails={"c": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    page = page_of(tmp_path / "out")
    assert [line["name"] for line in page.lines] == list("ab")
    assert "scan(s) of 5, the run was ended" in page.words
    assert Inference(tmp_path / "out", bank_file, scans, resume=True).run().seen == list("cde")
    Inference(tmp_path / "whole", bank_file, scans).run()
    pages = [(tmp_path / name / "report.html").read_bytes() for name in ("out", "whole")]
    assert pages[0] == pages[1]
    assert len(page_of(tmp_path / "out").all("img")) == 5


def test_page_of_scans_of_several_days_has_a_chart_also_after_a_stop(tmp_path, bank_file, scans):
    for number, scan in enumerate(scans[:3]):
        os.utime(scan["image"], (0, 1.7e9 + 86400 * number))
    stopped = Inference(tmp_path / "out", bank_file, scans[:3], fails={"c": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert Inference(tmp_path / "out", bank_file, scans[:3], resume=True).run().seen == ["c"]
    words = page_of(tmp_path / "out").words
    assert "OODM over time (days on which files were last changed)" in words
    assert "3 scan(s) on 3 day(s), 0 out of distribution" in words


def test_journal_without_pictures_is_read(tmp_path, bank_file, scans):
    Inference(tmp_path / "out", bank_file, scans[:1]).run()
    journal = tmp_path / "out" / JOURNAL
    journal.write_text(journal.read_text().split(', "origin"')[0] + "}\n")
    assert Inference(tmp_path / "out", bank_file, scans[:1], resume=True).run().seen == []
    assert page_of(tmp_path / "out").all("img") == []


def test_what_is_no_segmentation_is_not_outlined(tmp_path, bank_file, scans, monkeypatch):
    seen = []
    monkeypatch.setattr("common.handlers.report.thumbnail", lambda image, classes, limit: seen.append(classes) or "")
    inference = Inference(tmp_path / "out", bank_file, scans[:1])
    inference.run()
    inference.save = lambda data: data
    inference.run()
    assert seen[0].shape == (1, 6, 5, 4)
    assert seen[1] is None


def test_no_picture_can_cost_the_page(tmp_path, bank_file, scans, monkeypatch, caplog):
    monkeypatch.setattr("common.handlers.report.thumbnail", lambda *_, **__: 1 / 0)
    Inference(tmp_path / "out", bank_file, scans[:1]).run()
    assert [line["name"] for line in page_of(tmp_path / "out").lines] == ["a"]
    assert "the picture of a in report.html could not be made (" in caplog.text
