"""The gallery of the report: what it shows, and that it can cost no report."""

import nibabel as nib
import numpy as np
import pytest

from common.errors import CasesFailedError
from tests.common.report.inference import KNOWN, NONE, STRANGE, Inference, row, rows_of


def test_strange_scans_come_first_in_the_gallery_and_failed_ones_never(tmp_path, bank_file, scans, shown):
    verdicts = {"a": KNOWN | {"expected_dice": 0.9, "expected_dice_low": 0.75}, "b": STRANGE, "c": NONE, "e": STRANGE}
    inference = Inference(tmp_path / "out", bank_file, scans, verdicts, pictures=3, fails={"d": "broken"})
    with pytest.raises(CasesFailedError):
        inference.run()
    texts = [text for *_, text in shown.pop()]
    assert texts == [
        "b\nOUT OF DISTRIBUTION",
        "e\nOUT OF DISTRIBUTION",
        "a\nin distribution\nexpected Dice 0.90, at least 0.75",
    ]


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
