"""The page in a real browser: its script runs under its policy, sorts, filters and enlarges without an error."""

import html
import json
import re
import shutil
import subprocess

import pytest

from common.page import FigureTable
from tests.common.page.pages import ROWS, make_page, row

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

TRIAL = """
const names = () => [...body.rows].filter(row => !row.hidden).map(row => row.querySelector(".name").textContent);
const press = label => heads.find(head => head.textContent === label).querySelector("button").click();
const seen = {};
const steps = [["up", "scan"], ["oodm", "OODM"], ["down", "OODM"]];
for (const [step, label] of steps) { press(label); seen[step] = names(); }
find("#kind").value = "out"; find("#kind").dispatchEvent(new Event("change")); seen.out = names();
seen.shown = find("#shown").textContent;
find("#kind").value = ""; find("#words").value = "TRUNC"; find("#words").dispatchEvent(new Event("input"));
seen.search = names();
rows.find(row => row.dataset.row === "1").querySelector(".look").click();
seen.dialog = [find("dialog").open, find("#view img").src, find("#view p").textContent.split(" \\u00b7 ").length,
               find("#view .chosen").dataset.row];
find("#close").click();
seen.closed = !find("dialog").open;
document.title = JSON.stringify(seen);
"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: apt-get install chromium")


LAYOUT = """
const broken = [];
for (const cell of document.querySelectorAll("th, td")) {
  const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    for (const word of walker.currentNode.data.matchAll(/\\S+/g)) {
      const range = document.createRange();
      range.setStart(walker.currentNode, word.index);
      range.setEnd(walker.currentNode, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map(box => box.top)).size > 1) broken.push(word[0]);
    }
  }
}
const wide = [...document.body.querySelectorAll("*")].filter(element =>
  element.getBoundingClientRect().right > window.innerWidth + .5 && !element.closest("table.figures"));
const width = selector => Math.round(find(selector).getBoundingClientRect().width);
parent.postMessage([window.innerWidth, {
  page: document.documentElement.scrollWidth, broken,
  wide: wide.map(element => element.tagName + "." + element.className),
  lines: Math.max(...rows.map(row => row.getBoundingClientRect().width)),
  picture: width(".look img"), reasons: width("td.reasons"), table: width("#scans table"), box: width("#scans .wide"),
}], "*");
"""

FRAMES = """<title>[]</title><script>
const seen = {};
addEventListener("message", event => { seen[event.data[0]] = event.data[1]; document.title = JSON.stringify(seen) });
</script><iframe src="report.html" width="390" height="800"></iframe>
<iframe src="report.html" width="1185" height="800"></iframe>"""
"""A phone, and a window of 1200 pixels beside its scroll bar; a window of Chromium itself is never so narrow."""

LONG = {
    "group": "thick_slices_3",
    "reasons": "sharpness 0.503, training 1.07 to 1.43; layer network_a.encoders.0 deviates by 15.9 spreads",
    "p_value": 0.02439, "dsc": 0.7685, "expected_dice": 0.86, "expected_dice_low": 0.41,
}  # fmt: skip

DIGEST = "0123456789abcdef" * 4
ERROR = f"case {DIGEST!r}: image /scans/study_7/{DIGEST}.nii.gz cannot be read (it ends early): copy it again"
"""The error of a scan whose name has no place where a line may end."""


def browse(path, folder, *further):
    """What the browser made of a page, and the lines of its console."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]
    options += ["--no-first-run", "--disable-background-networking", "--disable-component-update", *further]
    command = [BROWSER, *options, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def try_page(path, folder, script, shown=None):
    """What a script that is added to a page finds: the title of the page, or of another that shows it."""
    text = path.read_text(encoding="utf-8").replace("</script>", script + "</script>")
    path.write_text(re.sub(r"script-src 'sha256-[^']+'", "script-src 'unsafe-inline'", text), encoding="utf-8")
    tried, errors = browse(shown or path, folder)
    assert errors == []
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", tried).group(1)))


def test_page_fits_on_a_phone_and_on_a_desk_without_a_break_inside_a_word(tmp_path):
    table = FigureTable(
        "Detection", ("scans", "fpr at 95 tpr", *["sensitivity"] * 5), [("thick_slices_3", *[0.0125] * 6)]
    )
    rows = [row(f"hippocampus_{number}_thick_slices_3", **LONG) for number in (4, 150)]
    # The widest words of each column: those of a scan far out, whose Dice is not bounded.
    outside = row("heart_patient085_frame02", 8.337, **LONG | {"group": "hippocampus_mri", "expected_dice_low": 0.0})
    failed = row(DIGEST, None, error=ERROR, thumbnail="", group="thick_slices_3")
    page = make_page(tmp_path, [*rows, outside, ROWS[0], failed], tables=[table])
    (tmp_path / "frames.html").write_text(FRAMES)
    seen = try_page(page, tmp_path, LAYOUT, tmp_path / "frames.html")
    phone, desk = seen["390"], seen["1185"]
    assert phone["wide"] == desk["wide"] == [], "a wide table of figures scrolls in its own box"
    assert phone["page"] <= 390, "nothing is cut off at the right"
    assert phone["lines"] <= 390
    assert phone["picture"] > 320, "pictures take the whole width"
    assert desk["page"] <= 1185
    assert desk["table"] <= desk["box"], "all columns are seen at once"
    assert desk["reasons"] > 250
    assert {word for word in phone["broken"] + desk["broken"] if DIGEST not in word} == set()


def test_script_sorts_filters_and_enlarges(tmp_path):
    path = make_page(tmp_path)
    untouched, errors = browse(path, tmp_path)
    assert errors == []
    assert '<html lang="en" class="scripted">' in untouched, "the policy lets the page's own script run"
    seen = try_page(path, tmp_path, TRIAL)
    nasty = next(name for name in seen["up"] if "onerror" in name)
    assert seen == {
        "up": [nasty, "broken", "scan9", "scan10"],
        "oodm": ["scan10", nasty, "scan9", "broken"],
        "down": ["scan9", nasty, "scan10", "broken"],
        "out": ["scan9"],
        "shown": "1 of 4 shown",
        "search": ["broken"],
        "dialog": [True, "data:image/jpeg;base64,AAAA", 4, "1"],
        "closed": True,
    }


def test_page_whose_script_was_changed_does_not_run_it(tmp_path):
    path = make_page(tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace("</script>", "document.title = 1;</script>"))
    shown, errors = browse(path, tmp_path)
    assert "scripted" not in shown.split("<head>")[0]
    assert "Content Security Policy" in "".join(errors)
