"""The page: what it says of scans, bank and bundle, that names cannot break it, and that it stays small."""

import json
import re

import numpy as np
import pytest

from common.page import FigureTable
from common.page.histogram import draw_histogram
from tests.common.banks import full_bank
from tests.common.page.pages import NASTY, PIXEL, ROWS, Page, make_page, row


def test_page_has_a_line_for_every_scan(tmp_path):
    lines = Page(make_page(tmp_path)).lines
    assert [line["name"] for line in lines] == ["scan10", "scan9", NASTY, "broken"]
    assert [line["class"] for line in lines] == ["in", "out", "in", "none failed"]
    assert lines[0] == {
        "class": "in", "name": "scan10", "verdict": "in distribution", "oodm": "0.020000.08 \u00d7 threshold 0.2500",
        "p_value": "0.8000", "expected_dice": "0.88at least 0.75", "reasons": "",
    }  # fmt: skip
    assert lines[1]["verdict"] == "OUT OF DISTRIBUTION"
    assert lines[1]["reasons"] == "noise 1, training 2"
    assert (lines[3]["verdict"], lines[3]["oodm"]) == ("no verdict (error)", "")
    assert lines[3]["reasons"] == "it is <truncated>"


def test_scan_that_failed_counts_once_and_has_nothing_to_view(tmp_path):
    page = Page(make_page(tmp_path, [row("good"), row("bad", None, error="it is truncated", thumbnail="")]))
    counts = dict(re.findall(r"<li class=\"(\w+)\"><b>(\d+)</b>", (tmp_path / "report.html").read_text()))
    assert counts == {"all": "2", "out": "0", "in": "1", "none": "0", "failed": "1"}
    assert [button.get("class") for button in page.all("button")].count("look") == 1
    labels = [cell["data-label"] for cell in page.all("td") if cell.get("class") == "reasons"]
    assert labels == ["reasons", "error"]


@pytest.mark.parametrize(
    ("further", "head"),
    [([], "error"), ([row("far", reasons="noise 1, training 2")], "reasons or error")],
)
def test_error_stands_in_the_column_of_reasons(tmp_path, further, head):
    page = Page(make_page(tmp_path, [*further, row("bad", None, error="it is truncated")]))
    assert page.words[page.words.index("OODM") + 1] == head


def test_columns_without_any_value_are_left_out(tmp_path):
    (line,) = Page(make_page(tmp_path, [row("a")])).lines
    assert list(line) == ["class", "name", "verdict", "oodm"]


def test_page_shows_the_pictures_it_was_given_and_loads_nothing(tmp_path):
    (tmp_path / "roc.png").write_bytes(b"picture")
    page = Page(make_page(tmp_path, figures=[tmp_path / "roc.png", tmp_path / "absent.png"]))
    assert [image["src"] for image in page.all("img")] == [PIXEL] * 3 + ["data:image/png;base64,cGljdHVyZQ=="]
    links = {name for _, attributes in page.elements for name in attributes} & {"href", "action", "srcset", "onerror"}
    assert not links
    assert not page.all("link")
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")


def test_same_results_give_the_same_bytes(tmp_path):
    pages = [make_page(tmp_path / name).read_bytes() for name in "ab"]
    assert pages[0] == pages[1]


def test_legend_names_the_classes_of_the_weights(tmp_path, repository):
    metadata = str(repository / "bundles" / "spectral_ood" / "configs" / "metadata.json")
    page = make_page(tmp_path, metadata_file=metadata, class_names={"1": "anterior", "2": "posterior"})
    legend = page.read_text(encoding="utf-8").split('<ul class="legend">')[1].split("</ul>")[0]
    assert re.findall("</svg>([a-z]+)</li>", legend) == ["anterior", "posterior"]


def test_weights_of_classes_without_names_are_not_called_after_the_organ_of_the_bundle(tmp_path, repository):
    metadata = repository / "bundles" / "spectral_ood" / "configs" / "metadata.json"
    names = {"1": "class 1", "2": "class 2"}
    words = Page(make_page(tmp_path, metadata_file=str(metadata), class_names=names)).words
    assert "Segmentation of 2 unnamed class(es): report" in words
    assert {"class 1", "class 2"} <= set(words)
    assert not {"hippocampus", json.loads(metadata.read_text())["name"]} & set(words)


def test_summary_counts_and_names_bundle_and_bank(tmp_path, repository):
    metadata = repository / "bundles" / "spectral_ood" / "configs" / "metadata.json"
    text = " ".join(Page(make_page(tmp_path, total=6, metadata_file=str(metadata))).words)
    for count in ("4 scan(s) of 6, the run was ended", "1 out of distribution", "2 in distribution", "1 error"):
        assert count in text
    version = json.loads(metadata.read_text())["version"]
    for fact in (
        f"spectral_ood {version}",
        "decoders.0, encoders.3",
        "96 x 64 x 32",
        "a1a1a1a1a1a1a1a1",
        "hippocampus",
    ):
        assert fact in text


def test_tables_of_an_evaluation(tmp_path):
    table = FigureTable("Detection", ("scans", "auc"), [("<far>", 0.98765), ("near", None)])
    page = Page(make_page(tmp_path, [row("a", group="near", dsc=0.8125)], tables=[table]))
    assert page.lines[0]["group"] == "near"
    assert page.lines[0]["dsc"] == "0.8125"
    assert {"<far>", "0.9877", "Detection"} <= set(page.words)


def test_name_that_is_no_unicode_is_written_as_escape(tmp_path):
    path = make_page(tmp_path, [row("scan\udcff")])
    assert Page(path).lines[0]["name"] == "scan\\udcff"


def test_page_of_no_scan_and_one_that_cannot_be_written(tmp_path, caplog):
    assert Page(make_page(tmp_path, [])).lines == []
    (tmp_path / "file").write_text("")
    make_page(tmp_path / "file")
    assert "report.html could not be made (" in caplog.text


def test_five_hundred_scans_stay_below_20_mb(tmp_path):
    rows = [row(f"scan{number}", thumbnail="x" * 30_000, reasons="noise 1, training 2; " * 5) for number in range(500)]
    assert make_page(tmp_path, rows).stat().st_size < 20_000_000


def test_marks_lie_on_the_axis_of_the_training_cases():
    bank = full_bank()
    rows = [row("copy", 0.0), row("at", bank.threshold), row("none", None), row("far", 100.0)]
    drawing = draw_histogram(bank.leave_one_out, bank.threshold, rows)
    assert [f'data-row="{number}"' in drawing for number in range(4)] == [True, True, False, True]
    counted = [int(part.split(">")[-1]) for part in drawing.split(" training case(s)")[:-1]]
    assert sum(counted) == len(bank.leave_one_out)


@pytest.mark.parametrize("training", [np.zeros(3), np.full(3, 0.2), np.asarray([1e-9, 1.0, 1e9])])
def test_histogram_of_any_bank_can_be_drawn(training):
    assert "nan" not in draw_histogram(training, float(training.max()), ROWS)
