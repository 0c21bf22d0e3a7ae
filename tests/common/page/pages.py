"""Rows for the tests of the page, and what a page holds."""

from html.parser import HTMLParser

from common.page import write_page
from tests.common.banks import full_bank

NASTY = "a<img src=x onerror=\"document.title='broken'\">&amp;'"
PIXEL = "data:image/jpeg;base64,AAAA"


def row(name, oodm=0.1, **further):
    verdict = {"oodm": oodm, "threshold": 0.25, "is_ood": None if oodm is None else oodm > 0.25}
    return {"image": name, **verdict, "error": None, "thumbnail": PIXEL, **further}


ROWS = [
    row("scan10", 0.02, p_value=0.8, expected_dice=0.875, expected_dice_low=0.75),
    row("scan9", 0.5, p_value=0.01, reasons="noise 1, training 2"),
    row(NASTY, 0.1),
    row("broken", None, error="it is <truncated>", thumbnail=""),
]


class Page(HTMLParser):
    """Elements of a page with their attributes, and the cells of its table of scans."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.elements, self.stack, self.lines, self.words = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.stack == [], "every element is closed"

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.elements.append((tag, found))
        if tag not in ("meta", "img", "br", "input", "rect", "path", "polyline", "wbr"):
            self.stack.append(tag)
        if tag == "tr" and "data-row" in found:
            self.lines.append({"class": found["class"]})
        if tag == "td":
            self.cell = found["class"].split()[0] if "data-label" in found else ""
            if self.cell:
                self.lines[-1][self.cell] = ""

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in ("rect", "path", "polyline"):
            assert self.stack.pop() == tag
        elif self.stack[-1] == tag:
            self.stack.pop()

    def handle_data(self, data):
        self.words.append(data)
        if "td" in self.stack and self.cell:
            self.lines[-1][self.cell] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def make_page(folder, rows=ROWS, bank=None, **settings):
    path = folder / "report.html"
    write_page(rows, bank or full_bank(), path, **settings)
    return path
