"""The notebook runs from its first to its last cell and comes to the verdicts that it shows."""

import json
import re
import sys

import pytest
from monai.utils import set_determinism

NOTEBOOK = "own_network.ipynb"
STRANGE = ["noise 0.6", "thick slices 3", "tube", "ring"]


@pytest.fixture(scope="module")
def cells(repository):
    return json.loads((repository / "docs" / NOTEBOOK).read_text(encoding="utf-8"))["cells"]


@pytest.fixture(scope="module")
def code(cells):
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def names(code, tmp_path_factory):
    """What the cells leave."""
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("notebook"))
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("work")))
        for number, cell in enumerate(code):
            exec(compile(cell, f"{NOTEBOOK}, cell {number}", "exec"), names)
    set_determinism(None)
    return names


def test_new_scans_are_in_and_all_others_out(names):
    judged = dict(names["table"][["scan", "is_ood"]].itertuples(index=False))
    assert [name for name, is_ood in judged.items() if is_ood] == STRANGE
    assert len(judged) == 8
    assert names["loss_value"].item() < 0.2
    assert "noise" in dict(names["table"][["scan", "reasons"]].itertuples(index=False))["noise 0.6"]


def test_commands_find_every_scan_of_another_kind(names):
    assert len(names["report"]) == 8
    assert names["report"]["is_ood"].all()


def test_what_is_shown_is_what_was_computed(cells, names):
    shown = "".join(json.dumps(cell.get("outputs", [])) for cell in cells)
    assert f"{len(names['bank'].signatures)} signatures of {names['bank'].signatures.shape[1]} numbers" in shown
    assert all(re.search(rf"<td>{name}</td>\\n\", \" *<td>True</td>", shown) for name in STRANGE)
    assert "/tmp" not in shown
