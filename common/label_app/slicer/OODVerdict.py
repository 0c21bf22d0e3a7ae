"""Shows in 3D Slicer the verdict that comes with every segmentation of MONAI Label: in all slice views, and a dialog.

A module of 3D Slicer: add this folder under Edit > Application Settings > Modules > Additional module paths. It changes
nothing in the module of MONAI Label, whose requests for segmentations it listens to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import slicer
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModule

RED, BLUE = (0.84, 0.37, 0.0), (0.34, 0.71, 0.91)
"""Colors of both verdicts, which every kind of color vision tells apart."""


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
    return f"{text}\n{params['reasons']}" if params.get("reasons") else text


def write_in_views(text: str, color: tuple[float, float, float]) -> None:
    """Writes text into the upper right corner of every slice view.

    Args:
        text: Lines of text; empty to remove it.
        color: Red, green and blue of the text, each in [0, 1].
    """
    layout = slicer.app.layoutManager()
    for name in layout.sliceViewNames():
        view = layout.sliceWidget(name).sliceView()
        view.cornerAnnotation().SetText(vtk.vtkCornerAnnotation.UpperRight, text)
        view.cornerAnnotation().GetTextProperty().SetColor(*color)
        view.forceRender()
