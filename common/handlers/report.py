"""Writes the report that a hospital reads: the verdict on every scan, while the run goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.transforms import Orientation

from ..dicom.describe import class_labels
from ..errors import ImageError
from ..figures import draw_gallery
from ..figures.slices import telling_slice
from ..page import PAGE, read_origin, thumbnail, thumbnail_limit, write_page
from ..runtime.files import fingerprint
from ..runtime.interrupts import Interrupted, undisturbed
from ..runtime.listing import skipped_note
from ..runtime.sparing import sparing
from ..runtime.stages import file_digest
from ..spectral import read_bank
from .recorder import CaseRecorder, quality_text
from .summary import summary_lines
from .verdicts import COLUMNS, TABLE, Journal, Row, VerdictFiles

logger = logging.getLogger(__name__)


class OODReport(CaseRecorder):
    """Writes ``ood_report.csv`` and ``ood_report.json`` with the verdict on every scan, and a gallery of the first.

    ``report.html`` shows all scans with their verdicts when the run ends, also where it is ended before its last scan.
    A scan's row is written before its segmentation appears, so that there is never a segmentation without a verdict.
    ``ood_report.jsonl`` tells which scans are done, for a run that resumes. It passes over a scan that was done without
    an error by the same weights, bank and settings. The scan's segmentation must still be there, and its files
    unchanged, see :func:`~..runtime.files.fingerprint`. The slices of a volume are done when all are.

    Args:
        output_dir: Folder of the files.
        bank_file: File of the signature bank, whose digests go into the JSON.
        load: Function that loads the ``image`` of a case, as a file holds it; segmentations are loaded with it as well.
        resume: Whether to pass over what is done. Default false: a report that is there is replaced.
        settings: Further settings that decide over the results; after others, everything is done anew. Default none.
        files: Files of further weights that decide over the results; those that do not exist are left out. Default
            none.
        pictures: Number of scans shown in ``gallery.png``, from 0; those called out-of-distribution come first. Default
            12.
        metadata_file: File ``configs/metadata.json`` of the bundle, after which ``report.html`` names bundle and
            classes. Default none.
        class_names: Index of a class, as a text -> its name, of weights that were trained on other classes. Default
            none: those of the metadata.
        saves: Whether segmentations are saved. With false, predictions that reach the report are class indices, whose
            outlines are shown all the same. Default true.
    """

    def __init__(
        self,
        output_dir: str,
        bank_file: str,
        *,
        load: Callable[[Mapping[Any, Any]], Mapping[Any, Any]],
        resume: bool = False,
        settings: Mapping[str, Any] | None = None,
        files: Sequence[str] = (),
        pictures: int = 12,
        metadata_file: str | None = None,
        class_names: Mapping[str, str] | None = None,
        saves: bool = True,
    ) -> None:
        super().__init__()
        self.output_dir, self.bank_file, self.load = Path(output_dir), bank_file, load
        self.resume, self.settings, self.files = resume, dict(settings or {}), tuple(files)
        self.pictures, self.metadata_file, self.saves = pictures, metadata_file, saves
        self.class_names = class_names
        self.cases: dict[str, Mapping[str, Any]] = {}
        self.kept: dict[str, Row] = {}
        self.announced: set[str] = set()
        self.thumbnails: dict[str, str] = {}
        self.origins: dict[str, Mapping[str, str]] = {}
        self.verdicts: VerdictFiles | None = None

    def attach(self, engine: Engine) -> None:
        """Attaches to an engine that segments the cases of its data loader one by one."""
        super().attach(engine)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.advise)
        data = engine.data_loader.dataset.data  # type: ignore[attr-defined]
        self.cases = {str(case["case"]): case for case in data}

    def reset(self) -> None:
        """Begins the report, with the rows of the scans that are done where the run shall resume.

        Raises:
            BankError: When the bank cannot be read.
            OutputError: When a file cannot be written.
        """
        super().reset()
        self.announced.clear()
        self.bank = read_bank(self.bank_file)
        head = {"bank_digest": file_digest(self.bank_file), "weights_digest": self.bank.settings.weights_digest}
        order = {name: place for place, name in enumerate(self.cases)}
        self.verdicts = VerdictFiles(self.output_dir, head, order)
        further = {Path(path).name: file_digest(path) for path in self.files if Path(path).is_file()}
        self.journal = Journal(self.output_dir, head | self.settings | further)
        self.kept = self._done() if self.resume else {}
        self.thumbnails = {name: line.get("thumbnail", "") for name, line in self.kept.items()}
        self.origins = {name: line.get("origin", {}) for name, line in self.kept.items()}
        if self.resume:
            logger.info("%d of %d scan(s) are done already and passed over", len(self.kept), len(self.cases))
        with undisturbed():
            self.verdicts.write({name: line["row"] for name, line in self.kept.items()})
            self.journal.write(self.kept)

    def _done(self) -> dict[str, Row]:
        """Lines of the journal on scans that need not be done again."""
        lines = self.journal.read()
        undone = {
            result_name(case)
            for name, case in self.cases.items()
            if name not in lines or lines[name]["input"] != fingerprint(case["image"]) or not self._result(case)
        }
        return {name: lines[name] for name, case in self.cases.items() if result_name(case) not in undone}

    def _result(self, case: Mapping[str, Any]) -> Path | None:
        """The segmentation of a case, or of the volume that it is a slice of; ``None`` where there is none."""
        name = result_name(case)
        files = [self.output_dir / name / f"{name}_seg{suffix}" for suffix in (".nii.gz", ".png")]
        return next((file for file in files if file.is_file()), None)

    def is_done(self, case: Mapping[str, Any]) -> bool:
        """Returns whether a case is passed over; its row stands already."""
        return str(case["case"]) in self.kept

    def announce(self, name: str, result: Mapping[str, Any]) -> None:
        """Writes the row of a scan whose segmentation is about to appear.

        Args:
            name: Name of the case.
            result: Verdict on the case, see ``SpectralVerdictd``.

        Raises:
            OutputError: When the row cannot be written; then the segmentation must not appear.
        """
        # Without a run, as where a program calls the postprocessing itself, there is no report.
        if self.verdicts is not None:
            self.verdicts.put(report_row({"case": name, "result": result}))
            self.announced.add(name)

    def __call__(self, engine: Engine) -> None:
        """Adds the cases of one iteration.

        Raises:
            OutputError: When a row cannot be written.
        """
        batch, output = engine.state.batch[0], engine.state.output[0]  # type: ignore[index]
        if "done" in output:
            row = self.kept[str(batch["case"])]["row"]
            self.rows.append({"case": batch["case"], "result": row})
            return
        super().__call__(engine)
        row = report_row(self.rows[-1])
        picture = self.thumbnails[row["image"]] = self._thumbnail(batch, output)
        origin = self.origins[row["image"]] = read_origin(self.cases[str(batch["case"])]["image"])
        assert self.verdicts is not None
        with undisturbed():
            self.verdicts.put(row)
            if row["error"] is None:
                line = {"input": batch.get("fingerprint", ""), "row": row}
                self.journal.add(line | {"origin": origin, "thumbnail": picture})
            else:
                self._remove_earlier(self.cases[str(batch["case"])])

    def _remove_earlier(self, case: Mapping[str, Any]) -> None:
        """Removes the segmentation that an earlier run left of a scan that fails now: it would pass for this run's."""
        earlier = self._result(case)
        if earlier is not None and result_name(case) not in self.announced:
            earlier.unlink()
            logger.warning("%s of an earlier run is removed: the scan failed in this one", earlier)

    def _thumbnail(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> str:
        """The small picture of a scan, made while it is in memory; none of one that could not be loaded."""
        with sparing(f"the picture of {batch['case']} in {PAGE}"):
            if "image" in batch:
                # What was not saved are no classes, but what a network gives.
                segmented = not self.saves or "volume" in batch or batch["case"] in self.announced
                classes = output.get("pred") if segmented else None
                return thumbnail(batch["image"], classes, limit=thumbnail_limit(len(self.cases)))
        return ""

    def _write_page(self) -> None:
        """Writes the page on all scans that have a row."""
        if self.verdicts is not None:
            rows = [
                {**row, "thumbnail": self.thumbnails.get(name), **self.origins.get(name, {})}
                for name, row in self.verdicts.rows.items()
            ]
            path, total = self.output_dir / PAGE, len(self.cases)
            metadata_file, class_names = self.metadata_file, self.class_names
            write_page(rows, self.bank, path, total=total, metadata_file=metadata_file, class_names=class_names)

    def advise(self, _engine: Engine, error: BaseException) -> None:
        """Lets an error go on after writing the page; an interruption tells what there is and how to resume."""
        self._write_page()
        if isinstance(error, Interrupted):
            error.advice = (
                f"{len(self.rows)} of {len(self.cases)} scan(s) have their row in {self.output_dir / TABLE}; the same "
                "command with --resume true does the others"
            )
        raise error

    def finish(self) -> None:
        """Draws the gallery, writes the page and tells the verdicts on the first scans and how the run went.

        Raises:
            CasesFailedError: When a case failed.
        """
        shown = self._pictures()
        if shown:
            with sparing("gallery.png"):
                names = class_labels(self.metadata_file, self.class_names)
                draw_gallery(shown, self.output_dir / "gallery.png", names=names)
        self._write_page()
        for line in summary_lines([report_row(row) for row in self.rows]):
            logger.info("%s", line)
        note = skipped_note(self.output_dir)
        logger.info("verdicts on %d scan(s) written to %s%s", len(self.rows), self.output_dir / TABLE, note)
        self.raise_if_failed(self.output_dir / TABLE)

    def _pictures(self) -> list[tuple[Any, Any, str]]:
        """Slices with their segmentations; out-of-distribution first."""
        rows = [row for row in self.rows if "error" not in row]
        rows.sort(key=lambda row: not (row.get("result") or {}).get("is_ood"))
        shown: list[tuple[Any, Any, str]] = []
        for row in rows[: self.pictures]:
            with sparing(f"the picture of {row['case']} in gallery.png"):
                shown.append(self._picture(row))
        return shown

    def _picture(self, row: Row) -> tuple[Any, Any, str]:
        """The slice of a scan that tells most, and its segmentation, both as their files hold them, turned to RAS."""
        case = self.cases[row["case"]]
        files = {"image": case["image"], "segmentation": self._result(case)}
        parts = [self.load({**case, "image": file})["image"] for file in files.values()]
        if parts[0].shape[1:] != parts[1].shape[1:]:
            raise ImageError(f"the segmentation has shape {tuple(parts[1].shape)}, the scan {tuple(parts[0].shape)}")
        if parts[0].ndim == 4:
            parts = [Orientation("RAS", labels=None)(part) for part in parts]
            # Scanners pad volumes with slices of zeros, which tell nothing whatever was found there.
            parts[1] = parts[1] * (parts[0].amax((0, 1, 2)) > parts[0].amin((0, 1, 2)))
        judged = (row.get("result") or {}).get("is_ood")
        verdict = {None: "no verdict", True: "OUT OF DISTRIBUTION", False: "in distribution"}[judged]
        lines = (row["case"], verdict, quality_text(row.get("result") or {}))
        return *telling_slice(*parts), "\n".join(line for line in lines if line)


def report_row(row: Mapping[str, Any]) -> Row:
    """Returns the row of the report on a case.

    Args:
        row: Row of the recorder with ``case``, ``result`` and, of a case that failed, ``error``.
    """
    result = row.get("result") or {}
    given = {name: result.get(name) for name in COLUMNS}
    return given | {"image": row["case"], "error": row.get("error", result.get("reason"))}


def result_name(case: Mapping[str, Any]) -> str:
    """Returns what the segmentation of a case is called: as the case, or as the volume that it is a slice of."""
    return str(case.get("volume", case["case"]))
