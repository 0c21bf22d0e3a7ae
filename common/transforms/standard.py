"""Learns the standard scale of a training set's intensities, keeps it beside the weights, and aligns images to it."""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from torch import Tensor

from ..errors import ConfigError, MissingDataError
from ..reading import MAX_VOXELS
from ..runtime.distributed import is_main_process, wait_for_all
from ..runtime.files import write_json
from ..runtime.options import read_flag
from ..runtime.weights import LANDMARKS_FILE
from .deciles import LANDMARKS, match_landmarks, standard_landmarks
from .modality import modality_of
from .patients import landmarks_of
from .scan import LoadScand

logger = logging.getLogger(__name__)

LEARNED_FILE = "learned_landmarks.json"
"""Name of the file of a scale whose weights may not have been written yet."""
DIGITS = 6
"""Decimals of the landmarks in a file, so that the order of the training cases does not matter."""


class MatchDecilesd(MapTransform):
    """Aligns the channels of images to a standard scale, see :func:`match_landmarks`; air, below 0 there, becomes 0.

    Of a slice, the deciles are those of all slices of its patient, see :func:`landmarks_of`.

    Args:
        keys: Keys of the images ``(C, H, W[, D])``.
        standard: Standard landmarks of each channel, ``(C, L)``, as nested lists. By this name they are part of the
            digests in signature banks.

    Raises:
        ConfigError: When the landmarks do not rise, or their number is another.
    """

    def __init__(self, keys: KeysCollection, standard: Sequence[Sequence[float]]) -> None:
        super().__init__(keys)
        self.standard = [list(map(float, row)) for row in standard]
        if not self.standard or any(len(row) != len(LANDMARKS) or row != sorted(row) for row in self.standard):
            raise ConfigError(
                f"standard is {self.standard}; accepted are {len(LANDMARKS)} rising landmarks for each channel"
            )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` with aligned images.

        Raises:
            ConfigError: When an image has another number of channels.
        """
        matched = dict(data)
        for key in self.key_iterator(matched):
            image = matched[key]
            if len(image) != len(self.standard):
                raise ConfigError(f"standard has {len(self.standard)} channel(s), the image has {len(image)}")
            plain = torch.as_tensor(image).as_subclass(Tensor)
            aligned = match_landmarks(plain, torch.tensor(self.standard), landmarks_of(matched, image, LANDMARKS))
            matched[key] = convert_to_dst_type(aligned.clamp(min=0), image)[0]
        return matched


def read_standard(landmarks_file: str | Path | None) -> list[list[float]]:
    """Returns the standard landmarks that a training has left beside its weights.

    Args:
        landmarks_file: File that :class:`LandmarkLearner` writes.

    Raises:
        MissingDataError: When it does not exist or holds no landmarks.
    """
    try:
        standard = json.loads(Path(landmarks_file or "").read_text(encoding="utf-8"))["landmarks"]
        return [[float(value) for value in row] for row in standard]
    except OSError as error:
        raise MissingDataError(
            f"normalization is 'deciles', but {landmarks_file} cannot be read ({error.strerror}); a training with this "
            "normalization writes it: copy it together with the weights"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise MissingDataError(
            f"{landmarks_file} holds no landmarks of intensities; copy it again from beside the weights"
        ) from error


class LandmarkLearner:
    """Learns the standard scale from training cases, and writes it for training, evaluation and inference.

    A training writes it to ``<output_dir>/learned_landmarks.json``. A copy comes beside the weights when they do, see
    :class:`~..handlers.BestWeights`. Until then, weights of an earlier training keep the scale that they need.

    Args:
        data: Training cases.
        output_dir: Folder of what a training leaves.
        save_dir: Folder of the weights.
        normalization: How MR is normalized; nothing is done unless it is ``deciles``.
        modality: ``CT``, ``MR`` or ``RGB``, for cases that do not tell; only MR is learned from. With ``None``, the
            default, all cases are.
        max_voxels: Most voxels that a file may declare, see :class:`LoadScand`. Default 500 million.
        resume: Whether a run goes on, with the landmarks that it had learned. Default false.
    """

    def __init__(
        self,
        data: Sequence[Mapping[Hashable, Any]],
        *,
        output_dir: str | Path,
        save_dir: str | Path,
        normalization: str,
        modality: str | None = None,
        max_voxels: int = MAX_VOXELS,
        resume: bool | str = False,
    ) -> None:
        self.resume = read_flag(resume, "resume")
        self.data, self.learned_file = data, Path(output_dir, LEARNED_FILE)
        self.kept_file, self.has_learned = Path(save_dir, LANDMARKS_FILE), False
        self.normalization, self.modality = normalization, modality
        self.load = LoadScand("image", max_voxels=max_voxels)

    def file(self) -> str:
        """Returns the file to align images to: what this run has learned, else what lies beside the weights."""
        return str(self.learned_file if self.has_learned else self.kept_file)

    def run(self) -> None:
        """Learns and writes the landmarks; in a distributed run, the main process does.

        Raises:
            ConfigError: When no case is MR, or a channel has no foreground in any.
            ImageError: When an image cannot be read.
            OutputError: When the file cannot be written.
        """
        if self.normalization != "deciles":
            return
        learned = self.resume and self.learned_file.is_file()
        # All have looked before the file is written.
        wait_for_all()
        self.has_learned = True
        if learned:
            return
        if is_main_process():
            measured = list(self._measured())
            standard = [[round(value, DIGITS) for value in row] for row in standard_landmarks(measured).tolist()]
            write_json({"shares": LANDMARKS, "landmarks": standard}, self.learned_file)
            logger.info("scale of intensities, from %d volume(s) or patient(s): %s", len(measured), self.learned_file)
        wait_for_all()

    def _measured(self) -> Iterator[Tensor]:
        """The landmarks of every volume, and of every patient of slices."""
        done: set[tuple[str, ...]] = set()
        for case in self.data:
            patient = tuple(map(str, case.get("patient_images", ())))
            if patient in done:
                continue
            image = self.load({key: case[key] for key in ("image", "case", "refused") if key in case})["image"]
            if self.modality is not None and modality_of(case, image, self.modality) != "MR":
                continue
            if patient and image.ndim == 3:
                done.add(patient)
            yield landmarks_of(case, image, LANDMARKS)
