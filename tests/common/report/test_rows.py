"""The report of inference: rows that are there in time, in one order, whatever happens."""

import csv
import hashlib
import json
import os
import signal

import pytest

from common.errors import CasesFailedError, MissingDataError, OutputError
from common.handlers.summary import summary_lines
from common.handlers.verdicts import JOURNAL, VerdictFiles
from common.runtime.interrupts import Interrupted
from tests.common.report.inference import KNOWN, NONE, STRANGE, Inference, masks_of, names_of, row, rows_of


def test_report_has_a_row_for_every_scan_and_a_gallery(tmp_path, bank_file, scans, read_picture):
    Inference(tmp_path / "out", bank_file, scans[:3], {"b": STRANGE, "c": NONE}).run()
    assert rows_of(tmp_path / "out") == [row("a"), row("b", STRANGE), row("c", NONE, "no signature bank")]
    content = json.loads((tmp_path / "out" / "ood_report.json").read_text())
    with open(bank_file, "rb") as file:
        assert content["bank_digest"] == hashlib.sha256(file.read()).hexdigest()
    assert content["weights_digest"] == "f" * 64
    assert (tmp_path / "out" / "ood_report.json").read_text() == json.dumps(content, indent=2) + "\n"
    read_picture(tmp_path / "out" / "gallery.png")
    files = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_file())
    assert files == ["gallery.png", "ood_report.csv", "ood_report.json", "ood_report.jsonl", "report.html"]


def test_report_of_no_scan_is_whole(tmp_path, bank_file):
    inference = Inference(tmp_path / "out", bank_file, [])
    inference.report.reset()
    assert rows_of(tmp_path / "out") == []


def test_failed_scan_has_its_row_and_ends_the_run_after_the_others(tmp_path, bank_file, scans):
    inference = Inference(tmp_path / "out", bank_file, scans[:2], {"b": STRANGE}, fails={"a": "a is broken"})
    with pytest.raises(CasesFailedError, match=r"1 of 2 case\(s\) failed.*a is broken.*ood_report\.csv"):
        inference.run()
    assert rows_of(tmp_path / "out") == [row("a", NONE, "a is broken"), row("b", STRANGE)]
    assert (tmp_path / "out" / "gallery.png").is_file()


def test_run_ends_with_a_line_on_each_of_the_first_scans(tmp_path, bank_file, scans, caplog):
    caplog.set_level("INFO")
    known = KNOWN | {"expected_dice": 0.874, "expected_dice_low": 0.79}
    with pytest.raises(CasesFailedError):
        Inference(tmp_path / "out", bank_file, scans[:3], {"a": known, "b": STRANGE}, fails={"c": "c\nis broken"}).run()
    assert caplog.messages[-4:-1] == [
        "a  in distribution      OODM 0.1000 / 0.2500  expected Dice 0.87, at least 0.79",
        "b  OUT OF DISTRIBUTION  OODM 0.5000 / 0.2500",
        "c  no verdict                                 c is broken",
    ]
    assert caplog.messages[-1].startswith("verdicts on 3 scan(s) written to ")
    rows = [row(str(number)) | {"oodm": 0.1, "threshold": 0.25, "is_ood": False} for number in range(22)]
    assert [len(summary_lines(rows[:count])) for count in (0, 20, 22)] == [0, 20, 21]
    assert summary_lines(rows)[-1] == "... and 2 more scan(s)"


def test_segmentation_of_an_earlier_run_does_not_stay_beside_a_failure(tmp_path, bank_file, scans, caplog):
    out = tmp_path / "out"
    Inference(out, bank_file, scans).run()
    with pytest.raises(CasesFailedError, match="1 of 5"):
        Inference(out, bank_file, scans, fails={"c": "broken"}).run()
    assert not (out / "c" / "c_seg.nii.gz").exists()
    assert (out / "b" / "b_seg.nii.gz").is_file()
    assert "c_seg.nii.gz of an earlier run is removed" in caplog.text


def test_report_needs_its_bank_and_a_folder(tmp_path, bank_file, scans):
    with pytest.raises(MissingDataError, match=r"no signature bank at .*absent\.npz"):
        Inference(tmp_path / "out", str(tmp_path / "absent.npz"), scans).run()
    with pytest.raises(OutputError, match=r"cannot write .*ood_report\.csv"):
        Inference(tmp_path / "bank.npz", bank_file, scans).run()


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(), OutputError("disk full")])
@pytest.mark.tried("Runs that are stopped", "Kills at any scan", "Every finished scan has its row.")
def test_rows_are_there_as_soon_as_their_scan_is_done(tmp_path, bank_file, scans, stop):
    with pytest.raises(type(stop)):
        Inference(tmp_path / "out", bank_file, scans, {"b": STRANGE}, fails={"c": stop}).run()
    assert rows_of(tmp_path / "out") == [row("a"), row("b", STRANGE)]
    assert masks_of(tmp_path / "out") == ["a", "b"]


@pytest.mark.parametrize("file", ["c_seg.nii.gz", "ood_report.jsonl"])
def test_no_mask_is_ever_without_its_verdict(tmp_path, bank_file, scans, monkeypatch, file):
    """A kill between any two writes: before the mask appears, or before the journal knows of it."""
    inference = Inference(tmp_path / "out", bank_file, scans)
    replace, append = os.replace, os.pwrite

    def stop(source, target):
        if str(target).endswith(file):
            raise SystemExit
        replace(source, target)

    def written(descriptor, content, place):
        if file == JOURNAL and b'"image": "c"' in content and b"input" in content:
            raise SystemExit
        return append(descriptor, content, place)

    monkeypatch.setattr(os, "pwrite", written)
    if file != JOURNAL:
        monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(SystemExit):
        inference.run()
    monkeypatch.undo()
    assert set(masks_of(tmp_path / "out")) <= set(names_of(tmp_path / "out")) == set("abc")
    again = Inference(tmp_path / "out", bank_file, scans, resume=True).run()
    assert again.seen == ["c", "d", "e"]
    assert names_of(tmp_path / "out") == masks_of(tmp_path / "out") == list("abcde")


@pytest.mark.tried("Runs that are stopped", "A disk that fills up", "One line; no segmentation is without its row.")
def test_full_disk_ends_the_run_and_no_mask_appears_for_which_there_is_no_row(tmp_path, bank_file, scans, monkeypatch):
    inference = Inference(tmp_path / "out", bank_file, scans, {"b": STRANGE})
    put = VerdictFiles.put

    def full(self, row):
        if row["image"] > "b":
            raise OutputError("cannot write ood_report.csv: No space left on device")
        put(self, row)

    monkeypatch.setattr(VerdictFiles, "put", full)
    with pytest.raises(OutputError, match="No space left"):
        inference.run()
    assert masks_of(tmp_path / "out") == names_of(tmp_path / "out") == ["a", "b"]


def test_row_of_a_scan_that_fails_late_is_replaced(tmp_path, bank_file, scans):
    class Late(Inference):
        def step(self, engine, index):
            (output,) = super().step(engine, index)
            return [output | ({"error": "no DICOM"} if index == 1 else {})]

    with pytest.raises(CasesFailedError):
        Late(tmp_path / "out", bank_file, scans[:3]).run()
    assert rows_of(tmp_path / "out") == [row("a"), row("b", error="no DICOM"), row("c")]


def test_interruption_tells_what_there_is_and_how_to_go_on(tmp_path, bank_file, scans):
    with pytest.raises(Interrupted) as caught:
        Inference(tmp_path / "out", bank_file, scans, fails={"c": Interrupted(signal.SIGTERM)}).run()
    assert str(caught.value) == (
        f"ended by SIGTERM: 2 of 5 scan(s) have their row in {tmp_path}/out/ood_report.csv; the same command with "
        "--resume true does the others"
    )


def test_names_that_are_no_utf8_and_formulas_do_not_break_the_report(tmp_path, bank_file, scans):
    names = ["M\udcfcller", "=1+1", "a,b"]
    cases = [scan | {"case": name} for scan, name in zip(scans, names, strict=False)]
    inference = Inference(tmp_path / "out", bank_file, cases)
    inference.report.reset()
    for name in names:
        inference.report.announce(name, KNOWN)
        inference.report.journal.add({"input": "", "row": row(name)})
    assert [item["image"] for item in json.loads((tmp_path / "out" / "ood_report.json").read_text())["rows"]] == names
    with open(tmp_path / "out" / "ood_report.csv", newline="", encoding="utf-8") as file:
        assert [line["image"] for line in csv.DictReader(file)] == ["M\\udcfcller", "'=1+1", "a,b"]
    assert list(inference.report.journal.read()) == names


def test_thousands_of_rows_cost_no_more_than_their_bytes(tmp_path, bank_file, monkeypatch):
    inference = Inference(tmp_path / "out", bank_file, [])
    inference.report.reset()
    monkeypatch.setattr("common.runtime.growing.write_atomically", None)
    for number in range(3000):
        inference.report.announce(f"scan{number}", KNOWN)
    assert len(rows_of(tmp_path / "out")) == 3000
