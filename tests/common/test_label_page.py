"""The page on MONAI Label: what it shows exists, and what it pastes could have been answered."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from common.label_app.ranking import VERDICT

PAGE = Path(__file__).resolve().parents[2] / "common" / "label_app" / "README.md"


@pytest.fixture(scope="module")
def text():
    return PAGE.read_text(encoding="utf-8")


def test_page_is_short_and_its_picture_small(text):
    assert len(text.splitlines()) <= 180
    assert re.findall(r"!\[[^]]+\]\((\S+)\)", text) == ["verdicts.png", "ohif.png"]
    for picture in map(PAGE.with_name, ("verdicts.png", "ohif.png")):
        assert picture.stat().st_size <= 150_000
        with Image.open(picture) as image:
            assert image.format == "PNG"


def test_pasted_responses_are_json_and_their_verdicts_follow_from_their_numbers(text):
    responses = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", text, re.M | re.S)]
    verdicts = [response for response in responses if "threshold" in response]
    assert len(verdicts) == 4
    for verdict in verdicts:
        assert {"oodm", "threshold", "is_ood", "reason"} <= set(verdict) <= set(VERDICT)
        if verdict["reason"] is None:
            assert verdict["is_ood"] is (verdict["oodm"] > verdict["threshold"])
        else:
            assert (verdict["oodm"], verdict["threshold"], verdict["is_ood"]) == (None, None, None)
    (proposal,) = [response for response in responses if "ranking" in response]
    scores = [entry["oodm"] for entry in proposal["ranking"]]
    assert scores == sorted(scores, reverse=True)
    assert proposal["ranking"][0] == {key: proposal[key] for key in ("id", "oodm", "is_ood")}


def test_other_pages_lead_to_it():
    root = PAGE.parents[2]
    for page in [root / "README.md", *root.glob("bundles/*/docs/README.md")]:
        links = re.findall(r"\]\((\S+?label_app/README\.md)\)", page.read_text(encoding="utf-8"))
        assert links, f"{page} has no link to the page"
        assert {(page.parent / link).resolve() for link in links} == {PAGE}
