"""The report of inference where a run goes on: what is done is passed over, what changed is done again."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from ignite.engine import Engine

from common.denoising import LoadSliced
from common.errors import CasesFailedError
from common.handlers import OODReport
from common.handlers.verdicts import JOURNAL
from common.runtime.files import fingerprint
from common.spectral import SignatureBank
from tests.common.banks import BOUND
from tests.common.report.inference import AFFINE, KNOWN, Inference, names_of, row, rows_of


class TestResume:
    def test_done_scans_are_passed_over_and_failed_ones_done_again(self, tmp_path, bank_file, scans):
        with pytest.raises(CasesFailedError):
            Inference(tmp_path / "out", bank_file, scans[:4], fails={"b": "broken"}).run()
        again = Inference(tmp_path / "out", bank_file, scans, resume=True).run()
        assert again.seen == ["b", "e"]
        assert rows_of(tmp_path / "out") == [row(name) for name in "abcde"]
        assert [item["case"] for item in again.report.rows] == list("abcde")

    def test_rows_keep_what_else_a_verdict_tells(self, tmp_path, bank_file, scans):
        told = KNOWN | {
            "p_value": 0.05,
            "expected_dice": 0.9,
            "expected_dice_low": 0.7,
            "reasons": "noise 1, training 2",
        }
        for resume in (False, True):
            Inference(tmp_path / "out", bank_file, scans[:2], {"a": told}, resume=resume).run()
            assert rows_of(tmp_path / "out") == [row("a", told), row("b")]

    def test_journal_of_rows_with_fewer_columns_is_read(self, tmp_path, bank_file, scans):
        Inference(tmp_path / "out", bank_file, scans[:2]).run()
        journal = tmp_path / "out" / JOURNAL
        head, *lines = [json.loads(line) for line in journal.read_text().splitlines()]
        for line in lines:
            line["row"] = {name: line["row"][name] for name in ("image", "oodm", "threshold", "is_ood", "error")}
        journal.write_text("".join(json.dumps(line) + "\n" for line in (head, *lines)))
        again = Inference(tmp_path / "out", bank_file, scans[:2], resume=True).run()
        assert again.seen == []
        assert rows_of(tmp_path / "out") == [row("a"), row("b")]

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
            ({"bank": np.eye(3)}, "bank_digest"),
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
            rows = change.pop("bank")[:, ::-1]
            SignatureBank.fit(rows, c=3.0, **BOUND | {"weights_digest": "f" * 64}).save(bank_file)
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

    @pytest.mark.parametrize("cut", [1, 20, 10_000_000])
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
        assert again.seen == (list("abc") if cut == 10_000_000 else ["c"] if cut > 1 else [])
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
