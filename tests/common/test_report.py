"""The report of inference: rows that are there in time, in one order, whatever happens, and runs that go on."""

import csv
import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from common.denoising import LoadSliced
from common.engine.cases import CaseDataset
from common.errors import CasesFailedError, MissingDataError, OutputError
from common.handlers import OODReport
from common.handlers.verdicts import COLUMNS, JOURNAL, VerdictFiles
from common.runtime.files import fingerprint
from common.runtime.interrupts import Interrupted
from common.spectral import SignatureBank
from common.transforms import LoadScand, SaveSegmentationd

KNOWN = {"oodm": 0.1, "threshold": 0.25, "is_ood": False, "reason": None}
STRANGE = {"oodm": 0.5, "threshold": 0.25, "is_ood": True, "reason": None}
NONE = {"oodm": None, "threshold": None, "is_ood": None, "reason": "no signature bank"}
AFFINE = np.array([[0, 0, 2.0, 0], [-1, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 1]])


@pytest.fixture
def bank_file(tmp_path):
    path = tmp_path / "bank.npz"
    SignatureBank.fit(np.eye(3), weights_digest="f" * 64).save(path)
    return str(path)


@pytest.fixture
def scans(tmp_path, save_nifti):
    """Five scans, stored with their axes in another order; each is brightest where it is segmented."""
    rng = np.random.default_rng(0)
    cases = []
    for name in "abcde":
        image = rng.random((6, 5, 4)).astype(np.float32)
        cases.append({"case": name, "image": save_nifti(tmp_path / "scans" / f"{name}.nii.gz", image, AFFINE)})
    return cases


class Inference:
    """What a bundle's inference does, with verdicts given by the case's name; ``fails`` names what raises for it."""

    def __init__(self, folder, bank_file, cases, verdicts=None, *, fails=None, **settings):
        self.folder, self.verdicts, self.fails, self.seen = folder, verdicts or {}, fails or {}, []
        self.report = OODReport(str(folder), bank_file, load=LoadSliced("image"), **settings)
        self.save = SaveSegmentationd("pred", str(folder), report=self.report)
        dataset = CaseDataset(cases, LoadScand("image"), report=self.report)
        self.engine = Engine(self.step)
        self.engine.data_loader = SimpleNamespace(dataset=dataset)
        self.report.attach(self.engine)
        self.dataset = dataset

    def step(self, engine, index):
        batch = self.dataset[index]
        engine.state.batch = [batch]
        if "done" in batch or "error" in batch:
            return [{key: batch[key] for key in ("done", "error") if key in batch}]
        name = batch["case"]
        self.seen.append(name)
        error = self.fails.get(name)
        if isinstance(error, BaseException):
            raise error
        if error:
            return [{"error": error}]
        pred = MetaTensor((batch["image"] > 0.7).to(torch.uint8), meta=batch["image"].meta)
        result = self.verdicts.get(name, KNOWN)
        return [self.save({"case": name, "image": batch["image"], "pred": pred, "result": result})]

    def run(self):
        self.engine.run(range(len(self.dataset)))
        self.report.finish()
        return self


def rows_of(folder):
    """The rows, after making sure that both files hold the same."""
    with open(folder / "ood_report.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    content = json.loads((folder / "ood_report.json").read_text())
    as_text = [{key: "" if value is None else str(value) for key, value in row.items()} for row in content["rows"]]
    assert as_text == table
    assert not [row for row in content["rows"] if tuple(row) != COLUMNS]
    return content["rows"]


def names_of(folder):
    return [row["image"] for row in rows_of(folder)]


def masks_of(folder):
    return sorted(path.parent.name for path in folder.glob("*/*_seg.nii.gz"))


def row(name, result=KNOWN, error=None):
    return {"image": name} | {key: result[key] for key in ("oodm", "threshold", "is_ood")} | {"error": error}


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
    assert files == ["gallery.png", "ood_report.csv", "ood_report.json", "ood_report.jsonl"]


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


class TestResume:
    def test_done_scans_are_passed_over_and_failed_ones_done_again(self, tmp_path, bank_file, scans):
        with pytest.raises(CasesFailedError):
            Inference(tmp_path / "out", bank_file, scans[:4], fails={"b": "broken"}).run()
        again = Inference(tmp_path / "out", bank_file, scans, resume=True).run()
        assert again.seen == ["b", "e"]
        assert rows_of(tmp_path / "out") == [row(name) for name in "abcde"]
        assert [item["case"] for item in again.report.rows] == list("abcde")

    def test_order_is_that_of_the_scans_at_any_time(self, tmp_path, bank_file, scans):
        with pytest.raises(CasesFailedError):
            Inference(tmp_path / "out", bank_file, scans, fails={"b": "broken", "d": "broken"}).run()
        fails = {"d": KeyboardInterrupt()}
        with pytest.raises(KeyboardInterrupt):
            Inference(tmp_path / "out", bank_file, scans, fails=fails, resume=True).run()
        assert names_of(tmp_path / "out") == list("abce")

    def test_without_it_an_old_report_is_replaced(self, tmp_path, bank_file, scans):
        Inference(tmp_path / "out", bank_file, scans).run()
        again = Inference(tmp_path / "out", bank_file, scans[3:]).run()
        assert again.seen == names_of(tmp_path / "out") == ["d", "e"]
        again = Inference(tmp_path / "out", bank_file, scans, resume=True).run()
        assert again.seen == ["a", "b", "c"]

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"settings": {"output_format": "dicom_seg"}}, "output_format"),
            ({"files": ["denoiser.pt"]}, "denoiser.pt"),
            ({"bank": np.eye(3) * 2}, "bank_digest"),
        ],
    )
    @pytest.mark.tried(
        "Runs that are stopped",
        "`--resume true` with other weights or settings",
        "Every scan is done anew, and the log says why.",
    )
    def test_other_weights_or_settings_do_all_anew(self, tmp_path, bank_file, scans, caplog, monkeypatch, change, text):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "denoiser.pt").write_text("weights")
        settings = {"settings": {"output_format": "nifti"}}
        Inference(tmp_path / "out", bank_file, scans[:2], **settings).run()
        if "bank" in change:
            SignatureBank.fit(change.pop("bank") + np.eye(3)[::-1], weights_digest="f" * 64).save(bank_file)
        again = Inference(tmp_path / "out", bank_file, scans[:2], resume=True, **settings | change).run()
        assert again.seen == ["a", "b"]
        assert f"ood_report.jsonl was written with another {text}: every scan is segmented" in caplog.text

    @pytest.mark.parametrize("change", ["content", "touched", "replaced", "mask removed", "renamed"])
    @pytest.mark.tried(
        "Runs that are stopped",
        "`--resume true` where a scan or a mask has changed",
        "It is done again.",
    )
    def test_scan_or_mask_that_changed_is_done_again(self, tmp_path, bank_file, scans, change):
        Inference(tmp_path / "out", bank_file, scans[:3]).run()
        file, other = Path(scans[1]["image"]), Path(scans[3]["image"])
        status = file.stat()
        if change == "content":
            nib.save(nib.Nifti1Image(np.ones((2, 3, 4), np.float32), AFFINE), file)
        elif change == "touched":
            file.touch()
        elif change == "replaced":
            # By a file of the same size and age.
            shutil.copy(file, other)
            os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
            os.replace(other, file)
        elif change == "renamed":
            os.rename(file, other)
            os.rename(other, file)
        else:
            (tmp_path / "out" / "b" / "b_seg.nii.gz").unlink()
        assert Inference(tmp_path / "out", bank_file, scans[:3], resume=True).run().seen == ["b"]

    @pytest.mark.parametrize("cut", [1, 20, 10_000])
    @pytest.mark.tried(
        "Runs that are stopped",
        "A report that a power cut tore",
        "What is whole counts; the rest is done again.",
    )
    def test_journal_that_a_power_cut_tore_is_read_as_far_as_it_goes(self, tmp_path, bank_file, scans, cut):
        Inference(tmp_path / "out", bank_file, scans[:3]).run()
        journal = tmp_path / "out" / JOURNAL
        journal.write_bytes(journal.read_bytes()[:-cut])
        again = Inference(tmp_path / "out", bank_file, scans[:3], resume=True).run()
        assert again.seen == (list("abc") if cut == 10_000 else ["c"] if cut > 1 else [])
        assert names_of(tmp_path / "out") == list("abc")

    def test_no_journal_is_no_error(self, tmp_path, bank_file, scans, caplog):
        with caplog.at_level("INFO"):
            assert Inference(tmp_path / "out", bank_file, scans[:2], resume=True).run().seen == ["a", "b"]
        assert "ood_report.jsonl: every scan is segmented" in caplog.text

    def test_slices_of_a_volume_are_done_together(self, tmp_path, bank_file, scans):
        slices = [
            {"case": f"{scan['case']}_s{plane}", "volume": scan["case"], "plane": plane, "image": scan["image"]}
            for scan in scans[:3]
            for plane in range(2)
        ]
        report = OODReport(str(tmp_path / "out"), bank_file, load=LoadSliced("image"), resume=True)
        engine = Engine(lambda engine, batch: None)
        engine.data_loader = SimpleNamespace(dataset=SimpleNamespace(data=slices))
        report.attach(engine)
        report.reset()
        for item in slices:
            if item["case"] != "b_s1":
                line = {"input": fingerprint(item["image"]), "row": row(item["case"])}
                report.journal.add(line)
        for name in "ab":
            (tmp_path / "out" / name).mkdir()
            (tmp_path / "out" / name / f"{name}_seg.nii.gz").touch()
        report.reset()
        assert [report.is_done(item) for item in slices] == [True, True, False, False, False, False]


@pytest.fixture
def shown(monkeypatch):
    """What the gallery is made of, in place of its picture."""
    pictures = []
    monkeypatch.setattr("common.handlers.report.draw_gallery", lambda shown, path: pictures.append(shown))
    return pictures


def test_strange_scans_come_first_in_the_gallery_and_failed_ones_never(tmp_path, bank_file, scans, shown):
    verdicts = {"a": KNOWN, "b": STRANGE, "c": NONE, "e": STRANGE}
    inference = Inference(tmp_path / "out", bank_file, scans, verdicts, pictures=3, fails={"d": "broken"})
    with pytest.raises(CasesFailedError):
        inference.run()
    texts = [text for *_, text in shown.pop()]
    assert texts == ["b\nOUT OF DISTRIBUTION", "e\nOUT OF DISTRIBUTION", "a\nin distribution"]


def test_gallery_shows_scans_of_an_earlier_run_as_well(tmp_path, bank_file, scans, shown):
    Inference(tmp_path / "out", bank_file, scans[:3], {"b": STRANGE}).run()
    Inference(tmp_path / "out", bank_file, scans, resume=True).run()
    first, second = ([text.split()[0] for *_, text in pictures] for pictures in shown)
    assert (first, second) == (["b", "a", "c"], ["b", "a", "c", "d", "e"])


def test_slice_shows_scan_and_mask_as_they_are_written_and_in_ras(tmp_path, bank_file, scans, shown):
    Inference(tmp_path / "out", bank_file, scans).run()
    for scan, (picture, outline, _) in zip(scans, shown.pop(), strict=True):
        image = nib.as_closest_canonical(nib.load(scan["image"])).get_fdata()
        mask = nib.as_closest_canonical(nib.load(tmp_path / "out" / scan["case"] / f"{scan['case']}_seg.nii.gz"))
        place = mask.get_fdata().sum(axis=(0, 1)).argmax()
        np.testing.assert_allclose(picture, image[..., place], rtol=1e-6)
        np.testing.assert_array_equal(outline, mask.get_fdata()[..., place])


def test_slice_that_is_empty_in_the_scan_is_not_shown(tmp_path, bank_file, save_nifti, shown):
    image = np.random.default_rng(0).random((6, 5, 4)).astype(np.float32)
    image[..., 3] = 5
    Inference(tmp_path / "out", bank_file, [{"case": "a", "image": save_nifti(tmp_path / "a.nii.gz", image)}]).run()
    ((picture, outline, _),) = shown.pop()
    place = (image[..., :3] > 0.7).sum(axis=(0, 1)).argmax()
    np.testing.assert_array_equal(picture, image[..., place])
    np.testing.assert_array_equal(outline, image[..., place] > 0.7)


@pytest.mark.parametrize("broken", ["load", "turn", "draw", "mask"])
def test_no_picture_can_cost_the_report(tmp_path, bank_file, scans, monkeypatch, caplog, broken):
    def fail(*_, **__):
        raise RuntimeError("cannot be")

    inference = Inference(tmp_path / "out", bank_file, scans[:2])
    if broken == "load":
        inference.report.load = fail
    elif broken == "turn":
        monkeypatch.setattr("common.handlers.report.Orientation", fail)
    elif broken == "draw":
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    else:
        affine = np.eye(4)
        monkeypatch.setattr(
            inference.report, "_result", lambda case: save_other(tmp_path / "other.nii.gz", np.ones((2, 2, 2)), affine)
        )
    inference.run()
    assert rows_of(tmp_path / "out") == [row("a"), row("b")]
    assert not (tmp_path / "out" / "gallery.png").exists()
    warnings = [record.getMessage() for record in caplog.records if record.name == "common.runtime.sparing"]
    assert len(warnings) == (1 if broken == "draw" else 2)
    assert all("gallery.png could not be made (" in text for text in warnings)


def save_other(path, array, affine):
    nib.save(nib.Nifti1Image(array.astype(np.uint8), affine), path)
    return path


def test_report_can_do_without_pictures(tmp_path, bank_file, scans):
    Inference(tmp_path / "out", bank_file, scans[:2], pictures=0).run()
    assert not (tmp_path / "out" / "gallery.png").exists()


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
