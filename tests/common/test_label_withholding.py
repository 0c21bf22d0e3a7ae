"""A segmentation that is kept back because of its verdict, and what 3D Slicer shows of any."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from common.label_app.withholding import withholding_text

OUTSIDE = {"is_ood": True, "oodm": 0.51234, "threshold": 0.25, "reasons": "noise 2, training 1; sharpness 3"}
INSIDE = {"is_ood": False, "oodm": 0.1, "threshold": 0.25, "reasons": ""}
STALE = {"is_ood": None, "oodm": None, "threshold": None, "reason": "no signature bank"}
MODULE = Path(__file__).resolve().parents[2] / "common" / "label_app" / "slicer" / "OODVerdict.py"


@pytest.mark.parametrize(
    ("verdict", "request_", "kept"),
    [
        (OUTSIDE, {}, True),
        (OUTSIDE, {"despite_verdict": False}, True),
        (OUTSIDE, {"despite_verdict": True}, False),
        (OUTSIDE, {"despite_verdict": "true"}, False),
        (INSIDE, {}, False),
        (STALE, {}, False),
        ({}, {}, False),
    ],
)
def test_only_scans_out_of_distribution_are_kept_back_unless_asked_for(verdict, request_, kept):
    text = withholding_text(verdict, request_)
    assert bool(text) is kept
    if kept:
        assert text.startswith("OUT OF DISTRIBUTION: OODM 0.5123 is above the threshold 0.25; noise 2, training 1; ")
        assert "despite_verdict" in text


class Annotation:
    """A text in a view, as VTK's; that of the corners, which Slicer itself writes, is another one."""

    UpperEdge = "upper edge"

    def __init__(self):
        self.text, self.color = None, None

    def SetMaximumFontSize(self, size):
        assert 10 <= size <= 20

    def SetText(self, place, text):
        assert place == self.UpperEdge
        self.text = text

    def GetTextProperty(self):
        return SimpleNamespace(SetColor=self._paint)

    def _paint(self, *color):
        self.color = color


class View:
    """A slice view that keeps what is shown in it, and how often it was drawn."""

    def __init__(self):
        self.shown, self.drawn = [], 0

    def renderWindow(self):
        renderer = SimpleNamespace(AddViewProp=self.shown.append)
        return SimpleNamespace(GetRenderers=lambda: SimpleNamespace(GetItemAsObject=lambda index: [renderer][index]))

    def scheduleRender(self):
        self.drawn += 1

    @property
    def text(self):
        (annotation,) = self.shown
        return annotation.text


@pytest.fixture
def slicer(monkeypatch):
    """3D Slicer as far as the module asks for it: two views, dialogs, and MONAI Label's logic."""
    views = {name: View() for name in ("Red", "Green")}
    layout = SimpleNamespace(
        sliceViewNames=lambda: list(views), sliceWidget=lambda name: SimpleNamespace(sliceView=lambda: views[name])
    )
    made = SimpleNamespace(views=views, dialogs=[], started=[], answer=("file", {}))
    app = SimpleNamespace(
        layoutManager=lambda: layout, connect=lambda signal, slot: made.started.append((signal, slot))
    )
    util = SimpleNamespace(warningDisplay=lambda text, windowTitle: made.dialogs.append((windowTitle, text)))

    class Logic:
        def infer(self, model, image, params=None):
            assert (model, image) == ("a model", "an image")
            return made.answer

    made.logic = Logic
    contents = {
        "slicer": {"app": app, "util": util},
        "slicer.ScriptedLoadableModule": {"ScriptedLoadableModule": type("Base", (), {"__init__": lambda *_: None})},
        "vtk": {"vtkCornerAnnotation": Annotation},
        "MONAILabel": {"MONAILabelLogic": Logic},
    }
    for name, attributes in contents.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    specification = importlib.util.spec_from_file_location("OODVerdict", MODULE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    parent = SimpleNamespace()
    module.OODVerdict(parent)
    assert (parent.dependencies, parent.hidden) == (["MONAILabel"], True)
    ((signal, slot),) = made.started
    assert signal == "startupCompleted()"
    slot()
    return made


@pytest.mark.parametrize(
    ("params", "text", "dialogs"),
    [
        (OUTSIDE, "OUT OF DISTRIBUTION\nOODM 0.5123, threshold 0.25\nnoise 2, training 1\nsharpness 3", 1),
        (INSIDE, "in distribution\nOODM 0.1, threshold 0.25", 0),
        (STALE, "NO VERDICT: no signature bank", 0),
        ({"label_names": {}}, "", 0),
        (None, "", 0),
    ],
)
def test_slicer_shows_the_verdict_in_every_view(slicer, params, text, dialogs):
    slicer.answer = ("file", params)
    assert slicer.logic().infer("a model", "an image") == ("file", params), "MONAI Label goes on with the same"
    assert {view.text for view in slicer.views.values()} == {text}
    assert slicer.dialogs == [("OUT OF DISTRIBUTION", text)] * dialogs
    assert min(view.drawn for view in slicer.views.values()) == 2, "removed, then written"


def test_slicer_shows_no_verdict_on_another_scan(slicer):
    slicer.answer = ("file", OUTSIDE)
    slicer.logic().infer("a model", "an image")
    with pytest.raises(AssertionError):
        slicer.logic().infer("fails", "another image")
    assert {view.text for view in slicer.views.values()} == {""}
