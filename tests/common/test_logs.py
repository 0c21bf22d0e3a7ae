"""Log lines, error lines and tables that quote names which somebody else chose."""

import csv
import json
import logging

import numpy as np
import pytest

from common.errors import escaped, one_line
from common.runtime.error_report import report_error
from common.runtime.files import csv_cell, write_csv, write_json
from common.runtime.logs import PrintableRecord, escape_logs

FORGED = "scan\n2026-01-01 root INFO all scans are in distribution"
STEERING = [
    "\x1b[2J\x1b[31m",
    "\r",
    "\n",
    "\x07",
    "\x08",
    "\x9b2J",
    "\u202e",
    "\u2066",
    "\u200f",
    "\u2028",
    "\udcfc",
    "\0",
]


@pytest.fixture
def escaping():
    """Logs as a run does, for the time of a test."""
    before = logging.getLogRecordFactory()
    escape_logs()
    yield
    logging.setLogRecordFactory(before)


@pytest.mark.parametrize("text", STEERING, ids=ascii)
@pytest.mark.tried(
    "Names",
    "Escape sequences, and marks that turn the direction of writing",
    "The log shows them as escapes.",
)
def test_what_steers_a_terminal_is_shown_as_an_escape(text):
    shown = escaped(f"a{text}b")
    assert shown.isprintable()
    assert shown.encode().decode("unicode_escape") == f"a{text}b" or len(text) > 3
    assert one_line(f"a{text}b").isprintable()


@pytest.mark.parametrize("text", ["", "plain text", "Müller 脳 конь", "C:\\new"])
def test_what_can_be_shown_stays(text):
    assert escaped(text) == text


@pytest.mark.usefixtures("escaping")
@pytest.mark.parametrize("logger", ["common.handlers", "monai.engines", "of.another.library"])
@pytest.mark.tried(
    "Names",
    "Names with line breaks that would forge a line of the log",
    "The log shows them as escapes, in one line.",
)
def test_name_makes_no_line_of_its_own(caplog, logger, monkeypatch):
    # A run that was started before may have disabled it or quieted the one above.
    monkeypatch.setattr(logging.getLogger(logger), "disabled", False)
    with caplog.at_level(logging.INFO), caplog.at_level(logging.INFO, logger=logger):
        logging.getLogger(logger).info("1 of 2: %s", FORGED)
        logging.getLogger(logger).warning("".join(STEERING))
    assert [record.getMessage().isprintable() for record in caplog.records] == [True, True]
    assert caplog.records[0].getMessage() == "1 of 2: " + FORGED.replace("\n", "\\n")
    assert len(caplog.text.splitlines()) == 2


@pytest.mark.usefixtures("escaping")
def test_traceback_in_the_log_keeps_its_lines_and_shows_no_escape(caplog):
    with caplog.at_level(logging.DEBUG):
        try:
            raise ValueError("a\x1b[2J")
        except ValueError:
            logging.getLogger("test").debug("failed", exc_info=True)
    assert "\x1b" not in caplog.text
    assert "ValueError: a\\x1b[2J" in caplog.text.splitlines()


@pytest.mark.usefixtures("escaping")
def test_records_are_escaped_once_however_often_a_run_starts():
    escape_logs()
    assert logging.getLogRecordFactory() is PrintableRecord
    record = logging.makeLogRecord({"msg": "%s", "args": ("a\nb",)})
    assert record.getMessage() == record.getMessage() == "a\\nb"


@pytest.mark.parametrize("traceback", ["", "1"])
def test_error_lines_are_escaped(capsys, monkeypatch, traceback):
    monkeypatch.setenv("BUNDLE_TRACEBACK", traceback)
    report_error(OSError, OSError("a\x1b[2J\udcfc"), None)
    assert capsys.readouterr().err == "OSError: a\\x1b[2J\\udcfc\n"


FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "--1", "-x", "=", "-"]


@pytest.mark.parametrize("text", FORMULAS, ids=ascii)
@pytest.mark.tried(
    "Names",
    "Names that a spreadsheet would compute, such as `=cmd`",
    "The CSV holds them as text; the JSON keeps the bytes.",
)
def test_formula_in_a_cell_is_text(tmp_path, text):
    write_csv([{"image": text}], ["image"], tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file)) == {"image": f"'{text}"}
    assert csv_cell(csv_cell(text)) == f"'{text}"


@pytest.mark.parametrize(
    "value",
    [-1.5, -3, np.float64(-1e-9), -np.inf, None, True, "", "a=b", "case_1", "-1.5", "+2", "-1e-9", "-.5", "-inf"],
)
def test_numbers_and_other_texts_stay(value):
    assert csv_cell(value) is value


def test_bytes_that_are_no_text_cost_no_table_and_json_keeps_them(tmp_path):
    write_csv([{"image": "M\udcfcller"}, {"image": "b"}], ["image"], tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").split() == ["image", "M\\udcfcller", "b"]
    write_json({"image": "M\udcfcller\n=1"}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"image": "M\udcfcller\n=1"}
