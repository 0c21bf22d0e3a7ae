"""The page in a real browser: its script runs under its policy, sorts, filters and enlarges without an error."""

import html
import json
import re
import shutil
import subprocess

import pytest

from tests.common.page.pages import make_page

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


PHONE = """
document.title = JSON.stringify({
  window: window.innerWidth, page: document.documentElement.scrollWidth,
  lines: rows.map(row => Math.round(row.getBoundingClientRect().width)),
  picture: find(".look img").getBoundingClientRect().width,
});
"""


def browse(path, folder, *further):
    """What the browser made of a page, and the lines of its console."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]
    options += ["--no-first-run", "--disable-background-networking", "--disable-component-update", *further]
    command = [BROWSER, *options, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def try_page(path, folder, script, *further):
    """What a script that is added to a page finds."""
    text = path.read_text(encoding="utf-8").replace("</script>", script + "</script>")
    path.write_text(re.sub(r"script-src 'sha256-[^']+'", "script-src 'unsafe-inline'", text), encoding="utf-8")
    tried, errors = browse(path, folder, *further)
    assert errors == []
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", tried).group(1)))


def test_page_fits_on_a_phone(tmp_path):
    seen = try_page(make_page(tmp_path, total=9), tmp_path, PHONE, "--window-size=500,900")
    assert seen["window"] == 500, "as narrow as a window of Chromium can be"
    assert seen["page"] <= 500, "nothing is cut off at the right"
    assert max(seen["lines"]) <= 500
    assert seen["picture"] > 400, "pictures take the whole width"


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
