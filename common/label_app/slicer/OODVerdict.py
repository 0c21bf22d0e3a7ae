"""Shows in 3D Slicer the verdict that comes with every segmentation of MONAI Label: in all slice views, and a dialog.

A module of 3D Slicer: add this folder under Edit > Application Settings > Modules > Additional module paths. It changes
nothing in the module of MONAI Label, whose requests for segmentations it listens to. It was tested against stand-ins of
Slicer's API, not in Slicer itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import slicer
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModule

RED, BLUE = (0.84, 0.37, 0.0), (0.34, 0.71, 0.91)
"""Colors of both verdicts, which every kind of color vision tells apart."""

FONT_SIZE = 14
"""Largest size of the text, that of Slicer's own texts in slice views."""

_annotations: dict[str, Any] = {}
"""Name of a slice view -> its text."""


class OODVerdict(ScriptedLoadableModule):  # type: ignore[misc]
    """Listens to MONAI Label from the moment when all modules are loaded.

    Args:
        parent: What Slicer gives to every module.
    """

    def __init__(self, parent: Any) -> None:
        super().__init__(parent)
        parent.title = "Out-of-distribution verdicts"
        parent.categories = ["Active Learning"]
        parent.dependencies = ["MONAILabel"]
        parent.contributors = ["the authors of this collection of bundles"]
        # It has no panel to be opened.
        parent.hidden = True
        parent.helpText = "Shows whether a scan is like those that the network was trained on."
        parent.acknowledgementText = "Research software. Not for clinical use."
        slicer.app.connect("startupCompleted()", listen)


def listen() -> None:
    """Has every answer to a request for a segmentation shown."""
    from MONAILabel import MONAILabelLogic

    MONAILabelLogic.infer = showing(MONAILabelLogic.infer)


def showing(infer: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Returns a function that asks as ``infer`` does, shows the verdict, and returns the same.

    Args:
        infer: Function that returns the file of a segmentation, and the ``params`` of the answer.
    """

    def ask(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        write_in_views("", BLUE)
        file, params = infer(*args, **kwargs)
        text = describe(params or {})
        outside = bool((params or {}).get("is_ood"))
        write_in_views(text, RED if outside else BLUE)
        if outside:
            slicer.util.warningDisplay(text, windowTitle="OUT OF DISTRIBUTION")
        return file, params

    return ask


def describe(params: Mapping[str, Any]) -> str:
    """Returns a verdict in a few lines; empty where the model gives none.

    Args:
        params: What MONAI Label's server sends with a segmentation.
    """
    if "is_ood" not in params:
        return ""
    if params["is_ood"] is None:
        return f"NO VERDICT: {params.get('reason') or 'no signature bank'}"
    word = "OUT OF DISTRIBUTION" if params["is_ood"] else "in distribution"
    text = f"{word}\nOODM {params['oodm']:.4g}, threshold {params['threshold']:.4g}"
    return "\n".join([text, *params["reasons"].split("; ")]) if params.get("reasons") else text


def write_in_views(text: str, color: tuple[float, float, float]) -> None:
    """Writes text at the upper edge of every slice view.

    Args:
        text: Lines of text; empty to remove it.
        color: Red, green and blue of the text, each in [0, 1].
    """
    layout = slicer.app.layoutManager()
    for name in layout.sliceViewNames():
        view = layout.sliceWidget(name).sliceView()
        annotation = _annotation_of(name, view)
        annotation.SetText(vtk.vtkCornerAnnotation.UpperEdge, text)
        annotation.GetTextProperty().SetColor(*color)
        view.scheduleRender()


def _annotation_of(name: str, view: Any) -> Any:
    """A text of our own in a view: Slicer writes those of the view's corners anew whenever another slice is shown."""
    if name not in _annotations:
        _annotations[name] = vtk.vtkCornerAnnotation()
        _annotations[name].SetMaximumFontSize(FONT_SIZE)
        view.renderWindow().GetRenderers().GetItemAsObject(0).AddViewProp(_annotations[name])
    return _annotations[name]
