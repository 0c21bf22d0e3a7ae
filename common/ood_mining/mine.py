"""Mines: scores every candidate with the baseline and selects part of those that confuse it."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from ..data.classes import legend_names
from ..errors import ConfigError
from ..figures import draw_gallery
from ..figures.slices import telling_slice
from ..runtime.distributed import is_main_process, process_rank, wait_for_all, world_size
from ..runtime.files import write_csv, write_json
from ..runtime.progress import Progress
from ..runtime.sparing import sparing
from ..runtime.weights import load_weights
from .export import write_patch
from .patches import PatchDataset
from .proportion import (
    TARGET,
    estimate_ood_fraction,
    exact_ood_fraction,
    fraction_grid,
    positive_negative_ratio,
    tell_reach,
)
from .scoring import rank_candidates, score_batches
from .selection import Selection, check_selection, draw_selection, num_available, select_candidates

logger = logging.getLogger(__name__)

RatioUnit = Literal["patches", "pixels"]

CANDIDATES, GALLERY = "ood_candidates.csv", "ood_candidates.png"
PROPORTION, SELECTED = "proportion.json", "ood_selected.json"
SETTINGS = (
    "target_ratio", "fraction_step", "exact_fraction", "ood_fraction", "ratio_unit", "selection", "candidate_kinds",
    "seed", "save_patches",
)  # fmt: skip
COLUMNS = ("index", "kind", "case", "start", "foreground", "score", "in_removed", "kept")

EVERYWHERE = 0.95
"""Share of a candidate from which a baseline is said to find foreground everywhere."""


class CandidateMiner:
    """Scores the candidates of a data set and draws as many as bring the ratio of its patches near a target.

    Gao and Xu, sections 3.1 and 3.2.

    Args:
        dataset: Data set whose patches behind the original ones are the candidates.
        network: Network that takes the baseline's weights.
        device: Device that the network runs on.
        batch_size: Number of candidates scored at once. Default 8.
        target_ratio: Wanted ratio of positive to negative patches, above 0. Default 0.65, as in the paper.
        fraction_step: Step of the search for the fraction, in (0, 1]. Default 0.1, as in the paper.
        exact_fraction: Whether the fraction is that of :func:`exact_ood_fraction` in place of the grid's best. Default
            false.
        ood_fraction: Fraction of the candidates that confuse, in [0, 1]; it takes the place of either. With ``None``,
            the default, it is searched.
        ratio_unit: Unit of the ratio: ``patches``, the default, as in the paper, or ``pixels``, which tells data sets
            apart where every patch holds foreground and background.
        selection: Way in which candidates are chosen, see :func:`select_candidates`. Default ``pruned``, as in the
            paper.
        candidate_kinds: Kinds of candidates that are chosen from, a list of ``emptied`` or ``candidate``, see
            :class:`Patch`. With ``None``, the default, from all.
        ignore_removed: Whether pixels whose foreground was removed do not count for scores. Default false, as in the
            paper.
        seed: Seed of the draw, a whole number from 0. Default 0.
        save_patches: Whether the selected patches are written as files as well, to ``ood_patches``. Default false.
        foreground_labels: Data set -> label values of the classes that count, in order; for their names in the gallery.
            With ``None``, the default, all count.
        pictures: Largest number of candidates shown in the gallery. Default 12.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        network: nn.Module,
        device: torch.device,
        *,
        batch_size: int = 8,
        target_ratio: float = TARGET,
        fraction_step: float = 0.1,
        exact_fraction: bool = False,
        ood_fraction: float | None = None,
        ratio_unit: RatioUnit = "patches",
        selection: Selection = "pruned",
        candidate_kinds: Sequence[str] | None = None,
        ignore_removed: bool = False,
        seed: int = 0,
        save_patches: bool = False,
        foreground_labels: Mapping[str, Sequence[int]] | None = None,
        pictures: int = 12,
    ) -> None:
        # Wrong settings shall be named now, not after the baseline has been trained.
        estimate_ood_fraction(0, 0, 0, target=target_ratio, step=fraction_step)
        draw_selection(0, 0.0 if ood_fraction is None else ood_fraction, seed=seed)
        check_selection(selection, candidate_kinds)
        if ratio_unit not in get_args(RatioUnit):
            raise ConfigError(f"ratio_unit is {ratio_unit!r}; accepted are {', '.join(get_args(RatioUnit))}")
        self.dataset, self.network, self.device, self.batch_size = dataset, network, torch.device(device), batch_size
        self.target_ratio, self.fraction_step = target_ratio, fraction_step
        self.exact_fraction, self.ood_fraction, self.ratio_unit = exact_fraction, ood_fraction, ratio_unit
        self.selection, self.ignore_removed = selection, ignore_removed
        self.candidate_kinds = None if candidate_kinds is None else list(candidate_kinds)
        self.seed, self.save_patches, self.pictures = seed, save_patches, pictures
        self.foreground_labels = foreground_labels

    @property
    def settings(self) -> dict[str, Any]:
        """What decides over the selection, beside the scores."""
        return {name: getattr(self, name) for name in SETTINGS}

    def score(self, weights_file: str | Path, folder: Path) -> None:
        """Scores every candidate; writes ``ood_candidates.csv``, the most confusing first, and a gallery.

        Args:
            weights_file: File of the weights of the baseline.
            folder: Folder of both files.

        Raises:
            OutputError: When a file cannot be written.
        """
        load_weights(self.network, weights_file, device=self.device)
        first = self.dataset.num_original
        found = self.scores_of(range(first, len(self.dataset)))
        scores = found[:, 0]
        ranked = rank_candidates(scores).tolist()
        pruned = [number for number, score in enumerate(scores) if score == 0]
        if is_main_process():
            rows = [self._row(first + number, *found[number].tolist()) for number in ranked + pruned]
            write_csv(rows, COLUMNS, folder / CANDIDATES)
            self._draw([first + number for number in ranked], scores[ranked], folder / GALLERY)
            logger.info("%d of %d candidates confuse the baseline", len(ranked), len(scores))
        if len(scores) and scores.min() >= EVERYWHERE:
            logger.warning(
                "the baseline finds foreground in at least %.0f %% of every one of %d candidates: it has learned "
                "nothing, and so its candidates tell nothing; train it longer, or look at its labels",
                100 * EVERYWHERE, len(scores),
            )  # fmt: skip
        if not ranked:
            logger.warning(
                "the baseline confuses nothing: it finds no foreground in any of %d candidates, so there is no "
                "out-of-distribution patch to learn from; training goes on with the data set as it is",
                len(scores),
            )

    def select(self, candidates: Path, folder: Path) -> None:
        """Chooses from the candidates; writes ``proportion.json`` and ``ood_selected.json``.

        Args:
            candidates: Path of ``ood_candidates.csv``.
            folder: Folder of both files.

        Raises:
            OutputError: When a file cannot be written.
        """
        with open(candidates, newline="", encoding="utf-8") as file:
            # In the order of the data set, so that the draw does not depend on the last bits of scores.
            rows = sorted(csv.DictReader(file), key=lambda row: int(row["index"]))
        if self.candidate_kinds is not None:
            rows = [row for row in rows if row["kind"] in self.candidate_kinds]
        scores = [float(row["score"]) for row in rows]
        report = self.proportion(num_available(scores, self.selection))
        chosen = select_candidates(scores, report["fraction"], selection=self.selection, seed=self.seed)
        drawn = [rows[number] for number in chosen]
        if is_main_process():
            kept = [row for row in rows if float(row["score"]) > 0]
            report["kept"] = _describe_kept(kept) | {"candidates": len(rows)}
            counts = {"pnr": report["pnr_selected"], "selected": len(drawn), "confusing": len(kept)}
            report["measures"] = {name: {"": value} for name, value in counts.items()}
            write_json(report, folder / PROPORTION)
            patches: list[dict[str, Any]] = [
                {"index": int(row["index"]), "kind": row["kind"], "case": row["case"], "score": float(row["score"])}
                | {"start": [int(value) for value in row["start"].split()]}
                for row in drawn
            ]
            write_json({"seed": self.seed, "fraction": report["fraction"], "patches": patches}, folder / SELECTED)
            for patch in patches if self.save_patches else ():
                name = "_".join(str(value) for value in (patch["index"], patch["case"], *patch["start"]))
                write_patch(self.dataset.image_at(patch["index"]), folder / "ood_patches" / name)
            logger.info(
                "ratio of positive to negative %s: %.3f without, %.3f with %d out-of-distribution patches (%g %%)",
                self.ratio_unit, report["pnr"], report["pnr_selected"], len(drawn), 100 * report["fraction"],
            )  # fmt: skip
            if self.ood_fraction is None:
                tell_reach(report)
        wait_for_all()

    def proportion(self, num_ood: int) -> dict[str, Any]:
        """Returns the counts, the ratio at every fraction of the grid, and the fraction that is chosen.

        Args:
            num_ood: Number of candidates that may be drawn, at least 0.
        """
        found, size = self.dataset.counts, 1.0
        counts = (found.positive, found.negative)
        if self.ratio_unit == "pixels":
            counts = (found.positive_pixels, found.negative_pixels)
            # A candidate adds as many pixels as a patch has on average.
            size = sum(counts) / max(self.dataset.num_original, 1)
        estimated = estimate_ood_fraction(*counts, num_ood * size, target=self.target_ratio, step=self.fraction_step)
        exact = exact_ood_fraction(*counts, num_ood * size, target=self.target_ratio)
        fraction = self.ood_fraction if self.ood_fraction is not None else exact if self.exact_fraction else estimated

        def ratio(share: float) -> float:
            return positive_negative_ratio(*counts, round(share * num_ood) * size)

        return {
            "unit": self.ratio_unit,
            "selection": self.selection,
            "num_positive": counts[0],
            "num_negative": counts[1],
            "num_ood": num_ood,
            "target": self.target_ratio,
            "count_padding": self.dataset.count_padding,
            "pnr": ratio(0),
            "percentages": [
                {"fraction": share, "patches": round(share * num_ood), "pnr": ratio(share)}
                for share in fraction_grid(self.fraction_step)
            ],
            "estimated_fraction": estimated,
            "exact_fraction": exact,
            "fraction": fraction,
            "num_selected": round(fraction * num_ood),
            "pnr_selected": ratio(fraction),
        }

    def scores_of(self, indices: Sequence[int]) -> NDArray[np.float64]:
        """Returns the scores of patches by the weights that the network has, shared out over all processes.

        Args:
            indices: Numbers of the patches, from 0.

        Returns:
            ``(N, 2)`` as of :func:`score_batches`, the same on every process, in the order of ``indices``.
        """
        mine = list(indices)[process_rank() :: world_size()]
        with Progress("candidates", len(mine), "patches") as progress:
            batches = progress.over(self.dataset.batches(mine, self.batch_size), lambda batch: len(batch["image"]))
            scores = score_batches(self.network, batches, self.device, ignore_removed=self.ignore_removed).numpy()
        if world_size() == 1:
            return scores
        gathered: list[Any] = [None] * world_size()
        dist.all_gather_object(gathered, scores)
        together = np.empty((len(indices), 2))
        for rank, part in enumerate(gathered):
            together[rank :: world_size()] = part
        return together

    def _row(self, index: int, score: float, in_removed: float) -> dict[str, Any]:
        """A line of the table of candidates."""
        patch, shares = self.dataset.patch(index), self.dataset.counts.foreground
        foreground = shares[index - self.dataset.num_original] if patch.kind == "emptied" else 0.0
        start = " ".join(map(str, patch.start))
        described = {"index": index, "kind": patch.kind, "case": patch.case, "start": start}
        return described | {"foreground": foreground, "score": score, "in_removed": in_removed, "kept": score > 0}

    @sparing("ood_candidates.png")
    @torch.no_grad()
    def _draw(self, ranked: Sequence[int], scores: Sequence[float], path: Path) -> None:
        """Candidates from the most to the least confusing, with the outline of what is taken for foreground."""
        shown = np.unique(np.linspace(0, len(ranked) - 1, min(self.pictures, len(ranked))).round().astype(int))
        pictures = []
        for place in shown.tolist():
            image = self.dataset.image_at(ranked[place])
            logits = self.network(image[None].to(self.device))[0].cpu()
            found = logits.argmax(dim=0, keepdim=True) if len(logits) > 1 else logits > 0
            if not self.dataset.count_padding:
                # What is found beyond the edge of an image does not count for its score.
                found = found.masked_fill(self.dataset.padding_at(ranked[place]), 0)
            text = f"rank {place + 1} of {len(ranked)}: {100 * scores[place]:.1f} % confused"
            pictures.append((*telling_slice(image, found.float()), text))
        if pictures:
            names = legend_names(self.dataset.data, max(len(logits) - 1, 1), self.foreground_labels)
            draw_gallery(pictures, path, columns=6, names=names)


def _describe_kept(kept: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What is told of the candidates that confuse, from their rows in the table."""
    emptied = [float(row["foreground"]) for row in kept if row["kind"] == "emptied"]
    scores = np.array([float(row["score"]) for row in kept])
    in_removed = np.array([float(row["in_removed"]) for row in kept])
    return {
        "confusing": len(kept),
        "of_images_without_foreground": len(kept) - len(emptied),
        "without_removed_foreground": sum(share == 0 for share in emptied),
        "mean_removed_foreground": float(np.mean(emptied)) if emptied else None,
        "mean_score": float(scores.mean()) if kept else None,
        "confusion_in_removed_foreground": float(np.average(in_removed, weights=scores)) if kept else None,
    }


def read_selection(path: str | Path) -> list[int]:
    """Returns the numbers of the selected patches from ``ood_selected.json``."""
    return [int(patch["index"]) for patch in json.loads(Path(path).read_text(encoding="utf-8"))["patches"]]
