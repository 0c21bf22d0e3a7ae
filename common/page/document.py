"""Puts the page together and writes it."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..dicom.describe import NOTICE, BundleDescription, describe_bundle
from ..figures.style import OUTLINES
from ..runtime.files import write_atomically
from ..runtime.growing import encode
from ..runtime.sparing import spared_picture
from ..spectral import SignatureBank
from .histogram import draw_histogram
from .look import SCRIPT, STYLE
from .table import FigureTable, figure_table, scan_table
from .timeline import draw_timeline
from .words import kinds, number, text

PAGE = "report.html"
"""Name of the page in the folder of the results."""

CHOICES = {
    "": "all scans",
    "out": "out of distribution",
    "in": "in distribution",
    "none": "no verdict",
    "failed": "error",
}

DIALOG = (
    '<dialog aria-label="larger view"><button type="button" id="close">close</button><div id="view"></div></dialog>'
)


@spared_picture
def write_page(
    rows: Sequence[Mapping[str, Any]],
    bank: SignatureBank,
    path: str | Path,
    *,
    total: int | None = None,
    metadata_file: str | None = None,
    class_names: Mapping[str, str] | None = None,
    figures: Sequence[Path] = (),
    tables: Sequence[FigureTable] = (),
) -> None:
    """Writes the verdicts on scans as one HTML file that loads nothing, so that it can be opened anywhere.

    The same results give the same bytes. Like a picture, a page that cannot be written is a warning.

    Args:
        rows: Rows of the report: ``image``, ``oodm``, ``threshold``, ``is_ood``, ``error``, ``p_value``,
            ``expected_dice``, ``expected_dice_low``, ``reasons``; ``thumbnail``, an address that holds a picture; and
            ``day``, ``dated_by`` and ``scanner``, see :func:`~.origin.read_origin`.
            Those of an evaluation also have ``group`` and ``dsc``, the Dice. What is missing stays empty.
        bank: Bank that judged the scans.
        path: Path of the file.
        total: Number of scans of the run, where some have no row yet. By default as many as rows.
        metadata_file: File ``configs/metadata.json`` of the bundle, which names it. Default none.
        class_names: Index of a class, as a text -> its name, in place of those of the metadata. Default none.
        figures: Paths of PNG files that are shown; those that do not exist are left out. Default none.
        tables: Tables of figures, below the scans. Default none.
    """
    bundle = describe_bundle(metadata_file, class_names) if metadata_file else None
    parts = [
        _summary(rows, len(rows) if total is None else total),
        _settings(bank, bundle),
        f'<section id="histogram"><h2>OODM of {len(bank.leave_one_out)} training cases (each against the others), and '
        f"of these scans below</h2>{draw_histogram(bank.leave_one_out, bank.threshold, rows)}</section>",
        _timeline(rows, bank),
        f'<section id="scans"><h2>Scans</h2>{_legend(bundle)}{_controls()}{scan_table(rows)}</section>',
        *map(figure_table, tables),
        _pictures([figure for figure in figures if Path(figure).is_file()]),
        DIALOG,
    ]
    title = f"{bundle.title}: report" if bundle else "Verdicts on scans"
    with write_atomically(path) as temporary:
        temporary.write_bytes(encode(_document(title, parts)))


def _document(title: str, parts: Sequence[str]) -> str:
    """The whole file. Its policy lets no other script run and nothing be loaded, whatever a name may hold."""
    digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (STYLE, SCRIPT)]
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'"
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>"
    )
    header = f'<header><h1>{text(title)}</h1><p class="notice">{NOTICE}</p></header>'
    body = "\n".join([header, *parts, f"<script>{SCRIPT}</script>"])
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


def _summary(rows: Sequence[Mapping[str, Any]], total: int) -> str:
    """Numbers of scans by verdict."""
    # A scan that failed counts once, as such: it has no verdict either.
    counts = Counter(kinds(row)[-1] for row in rows)
    shown = [("all", f"scan(s){'' if total <= len(rows) else f' of {total}, the run was ended'}", len(rows))]
    shown += [(kind, CHOICES[kind], counts[kind]) for kind in ("out", "in", "none", "failed")]
    items = "".join(f'<li class="{kind}"><b>{count}</b>{words}</li>' for kind, words, count in shown)
    return f'<ul class="counts">{items}</ul>'


def _settings(bank: SignatureBank, bundle: BundleDescription | None) -> str:
    """What judged: bundle, network, bank and threshold."""
    used, rate = bank.settings, bank.false_alarm_rate
    rule = f"mean + {bank.c:g} standard deviations" if rate is None else f"false alarms of at most {rate:g}"
    held_out = f", {len(bank.held_out.scores)} held-out" if len(bank.held_out.scores) else ""
    facts = {
        "bundle": f"{bundle.name} {bundle.version}" if bundle else "",
        "threshold of the OODM": f"{number(bank.threshold)} ({rule})",
        "signature bank": f"{len(bank.signatures)} training cases{held_out}",
        "layers": ", ".join(used.layers),
        "window": " x ".join(map(str, used.roi_size)),
        "signature": f"{used.signature_form}, distance {used.distance}, {used.precision}",
        "weights (SHA-256)": used.weights_digest[:16],
    }
    items = "".join(f"<dt>{name}</dt><dd>{text(value)}</dd>" for name, value in facts.items() if value)
    return f"<dl>{items}</dl>"


def _timeline(rows: Sequence[Mapping[str, Any]], bank: SignatureBank) -> str:
    """The chart by day and scanner, of scans of several days."""
    chart = draw_timeline(bank.leave_one_out, bank.threshold, rows)
    dated = {row.get("dated_by") for row in rows}
    source = "days of acquisition" if dated <= {"header", "", None} else "days on which files were last changed"
    return chart and f'<section id="timeline"><h2>OODM over time ({source})</h2>{chart}</section>'


def _legend(bundle: BundleDescription | None) -> str:
    """Names of the classes beside the colors of their outlines."""
    if bundle is None:
        return ""
    items = [
        f'<svg viewBox="0 0 12 12"><path d="M0 6h12" stroke="{OUTLINES[(part.number - 1) % len(OUTLINES)]}" '
        f'stroke-width="4"/></svg>{text(part.label)}'
        for part in bundle.segments
    ]
    return f'<ul class="legend"><li>{"</li><li>".join(items)}</li></ul>'


def _controls() -> str:
    """Search and choice of verdicts."""
    choices = "".join(f'<option value="{kind}">{words}</option>' for kind, words in CHOICES.items())
    return (
        '<div class="controls"><input type="search" id="words" placeholder="name, reason, error" '
        f'aria-label="search"><select id="kind" aria-label="verdict">{choices}</select>'
        '<output id="shown"></output></div>'
    )


def _pictures(figures: Sequence[Path]) -> str:
    """Pictures that the run has drawn, inside the page."""
    items = []
    for figure in figures:
        content = base64.b64encode(figure.read_bytes()).decode()
        name = text(figure.stem.replace("_", " "))
        items.append(
            f'<figure class="{text(figure.stem)}"><img src="data:image/png;base64,{content}" alt="{name}"></figure>'
        )
    return f'<h2>Figures</h2><div class="pictures">{"".join(items)}</div>' if items else ""
