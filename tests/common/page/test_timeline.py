"""OODM over time: when and by what a scan was taken, and the chart that shows drift."""

import os
import re
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from common.page import read_origin
from common.page.timeline import draw_timeline, trailing_run
from tests.common.page.pages import NASTY, Page, make_page, row

TRAINING = np.linspace(0.05, 0.15, 41)
START = date(2024, 3, 1)


@pytest.fixture
def write_header(tmp_path):
    """Writes a DICOM file of attributes alone; returns its path."""

    def write(**attributes):
        header = Dataset()
        header.PatientName, header.PatientBirthDate, header.StationName = "Doe^Jane", "19700101", "ROOM7"
        with disable_value_validation():
            for name, value in attributes.items():
                setattr(header, name, value)
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.file_meta.MediaStorageSOPClassUID = MRImageStorage
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = "1.2.3"
        header.SOPClassUID = MRImageStorage
        header.save_as(tmp_path / "slice.dcm", enforce_file_format=True)
        return str(tmp_path / "slice.dcm")

    return write


@pytest.mark.parametrize(
    ("attributes", "day", "scanner"),
    [
        ({"AcquisitionDate": "20240531", "StudyDate": "20240101"}, "2024-05-31", ""),
        ({"StudyDate": "20240101", "Manufacturer": "GE", "ManufacturerModelName": "MR750"}, "2024-01-01", "GE MR750"),
        ({"Manufacturer": "Philips", "ManufacturerModelName": "Philips Ingenia"}, "", "Philips Ingenia"),
        ({"AcquisitionDate": "", "SeriesDate": "2024.02.29"}, "2024-02-29", ""),
    ],
)  # fmt: skip
def test_day_and_scanner_of_a_series_are_those_of_its_header(write_header, attributes, day, scanner):
    found = read_origin([write_header(**attributes), "/nowhere/second.dcm"])
    assert found == {"day": day, "dated_by": "header" if day else "", "scanner": scanner}
    assert "Doe" not in str(found)


@pytest.mark.parametrize("damage", [b"", b"no DICOM at all", None])
def test_header_that_tells_nothing_gives_empty_texts(write_header, tmp_path, damage):
    file = tmp_path / "damaged.dcm"
    content = Path(write_header(AcquisitionDate="20240531")).read_bytes()
    file.write_bytes(content.replace(b"20240531", b"2024\xff\x00zz") if damage is None else damage)
    assert read_origin([str(file)]) == {"day": "", "dated_by": "", "scanner": ""}
    assert read_origin([]) == {"day": "", "dated_by": "", "scanner": ""}


def test_day_of_another_file_is_that_of_its_last_change(tmp_path):
    file = tmp_path / "scan.nii.gz"
    file.touch()
    os.utime(file, (0, 1.7e9))
    assert read_origin(str(file)) == {"day": "2023-11-14", "dated_by": "file", "scanner": ""}
    assert read_origin(str(tmp_path / "missing.nii.gz"))["day"] == ""


def dated(number, oodm, scanner="A", **further):
    day = (START + timedelta(days=number)).isoformat()
    return row(f"scan_{number}", oodm, day=day, dated_by="header", scanner=scanner, **further)


def chart(rows):
    return draw_timeline(TRAINING, 0.25, rows)


def test_scans_of_one_day_or_without_a_day_are_not_drawn():
    assert chart([dated(0, 0.1), dated(0, 0.2)]) == ""
    assert chart([row("a"), row("b"), dated(3, None), dated(4, 0.1)]) == ""


def test_scans_lie_on_their_day_higher_with_a_higher_oodm():
    drawn = chart([dated(0, 0.1), row("undated"), dated(10, 0.1), dated(5, 0.5)])
    marks = re.findall(r'data-row="(\d)" d="M([\d.]+) ([\d.]+)\w', drawn)
    assert [number for number, *_ in marks] == ["0", "2", "3"]
    (first, low, *_), (last, same, *_), (middle, high, *_) = ([float(x), float(y)] for _, x, y in marks)
    assert middle == pytest.approx((first + last) / 2, abs=4.1), "circles begin left of their center"
    assert low == same > high
    assert "<title>scan_5, 2024-03-06: OODM 0.5000</title>" in drawn
    assert drawn.count('fill="#d55e00"') == 1, "one is out of distribution"


def test_every_scanner_has_its_chart_and_the_rarest_share_one():
    rows = [dated(number, 0.1, scanner=f"S{number % 9}") for number in range(27)] + [dated(0, 0.1, scanner="S3")]
    heads = re.findall(r"<h3>(.*?)<b>", chart(rows))
    assert heads[0] == "S3: 4 scan(s) on 4 day(s), 0 out of distribution"
    assert len(heads) == 6
    assert heads[-1] == "other scanners: 12 scan(s) on 12 day(s), 0 out of distribution"


@pytest.mark.parametrize(("number", "drift"), [(7, False), (8, True)])
def test_days_in_a_row_above_the_training_cases_are_called_a_drift(number, drift):
    rows = [dated(day, 0.09) for day in range(5)] + [dated(5 + day, 0.11) for day in range(number)]
    assert (f"the last {number} days lie above the median of the training cases" in chart(rows)) is drift
    assert trailing_run([], 1.0) == 0


def test_chart_stands_on_the_page_and_holds_no_markup_of_a_header(tmp_path):
    rows = [dated(0, 0.1, scanner=NASTY), dated(3, 0.5, scanner=NASTY)]
    page = Page(make_page(tmp_path, rows=rows))
    assert "OODM over time (days of acquisition)" in page.words
    assert {element["id"] for element in page.all("section")} == {"histogram", "timeline", "scans"}
    assert all("onerror" not in image for image in page.all("img"))
    by_file = [{**item, "dated_by": "file"} for item in rows]
    assert "OODM over time (days on which files were last changed)" in Page(make_page(tmp_path, rows=by_file)).words
