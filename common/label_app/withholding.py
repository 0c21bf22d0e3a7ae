"""Tells whether a segmentation is kept back because of its verdict, so that clients that show no verdict show this.

Plain Python, as ``ranking``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SWITCH, OVERRIDE = "withhold_ood", "despite_verdict"
"""Setting of the server, ``--conf withhold_ood true``, and option of a request that asks for a segmentation anyway."""


def withholding_text(verdict: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    """Returns why a segmentation is kept back, in one line; empty where it is not.

    Args:
        verdict: Verdict on the scan, with ``is_ood``, ``oodm`` and ``threshold``, and perhaps ``reasons``.
        request: Request of the client, whose ``despite_verdict`` asks for the segmentation anyway. Default false.
    """
    if not verdict.get("is_ood") or str(request.get(OVERRIDE, "")).lower() in ("true", "1"):
        return ""
    reasons = f"; {verdict['reasons']}" if verdict.get("reasons") else ""
    numbers = f"OODM {verdict['oodm']:.4g} is above the threshold {verdict['threshold']:.4g}"
    return (
        f"OUT OF DISTRIBUTION: {numbers}{reasons}. The segmentation must not be trusted and is kept back; "
        f"set {OVERRIDE} in the options of the model to see it anyway"
    )
