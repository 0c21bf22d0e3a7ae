"""Describes how the signatures of a bank came about, so that other settings are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from ..errors import BankMismatchError, ConfigError
from .distance import Distance
from .signature import SignatureForm

REFIT_COMMAND = (
    "cd <folder of the bundle>; python -m monai.bundle run fit_bank "
    "--config_file \"['configs/train.json','configs/as_trained.json']\" "
    "--dataset_dir <training data> --model_dir <folder of model.pt> --split_file <split.json of the training run>"
)


@dataclass(frozen=True)
class BankSettings:
    """How the signatures of a bank came about; inference must do the same for its verdicts to mean anything.

    Args:
        layers: Names of the feature layers, side by side in a signature. Default none.
        per_voxel: Whether singular values were divided by the square root of the number of voxels. Default false.
        precision: Floating type in which the network ran. Default ``float32``.
        roi_size: Largest sliding window, in voxels along each axis; what a network sees at once moves its features.
            Default none.
        overlap: Share of a window that the next one covered again, in [0, 1). Default 0.25.
        divisor: Number of voxels of which window sizes were multiples, for all axes or for each. Default 1.
        signature_form: ``unit`` (the paper, and the default) or ``full``: what a layer's signature holds.
        sigmoid: Whether each channel of the logits was a class by itself, where ``layers`` hold ``output``; false, the
            default, where they do not.
        distance: ``nearest`` (the paper, and the default), ``mahalanobis``, ``ledoit_wolf`` or ``clusters``.
        weights_digest: SHA-256 of the network's weights, in hexadecimal. Default empty.
        preprocessing_digest: SHA-256 of the settings of the image transforms, in hexadecimal. Default empty.
    """

    layers: tuple[str, ...] = ()
    per_voxel: bool = False
    precision: str = "float32"
    roi_size: tuple[int, ...] = ()
    overlap: float = 0.25
    divisor: int | tuple[int, ...] = 1
    signature_form: SignatureForm = "unit"
    sigmoid: bool = False
    distance: Distance = "nearest"
    weights_digest: str = ""
    preprocessing_digest: str = ""

    def __post_init__(self) -> None:
        for name, accepted in (("distance", get_args(Distance)), ("signature_form", get_args(SignatureForm))):
            value = getattr(self, name)
            if value not in accepted:
                raise ConfigError(f"{name} is {value!r}; accepted are {', '.join(accepted)}")

    @property
    def unbound(self) -> list[str]:
        """Names of the settings without which nothing tells which network and scans a bank belongs to."""
        needed = ("layers", "roi_size", "weights_digest", "preprocessing_digest")
        return [name for name in needed if not getattr(self, name)]

    def check(self, *, refit_command: str = REFIT_COMMAND, **settings: Any) -> None:
        """Makes sure that these settings are the given ones.

        Args:
            refit_command: Command that fits the bank again, for the message. Default :data:`REFIT_COMMAND`.
            **settings: Any of the fields, as in use now.

        Raises:
            BankMismatchError: When a setting differs, naming the first one and the command that fits the bank again.
        """
        # A digest says least, and differs too where images are resized to another window.
        for name, value in sorted(settings.items(), key=lambda item: item[0] == "preprocessing_digest"):
            expected = getattr(self, name)
            current = tuple(value) if isinstance(value, list) else value
            if expected != current:
                leave = "" if name.endswith("_digest") else f"leave {name} out, or "
                raise BankMismatchError(
                    f"the signature bank does not belong to this network: {name} is {_short(current)}, the bank was "
                    f"fitted with {_short(expected)}; {leave}refit it with: {refit_command}"
                )


def _short(value: Any) -> str:
    """A setting for a message; of a digest, the first twelve characters."""
    text = str(value) or "unset"
    return f"{text[:12]}..." if len(text) == 64 else text
