"""Describes the bundle that made DICOM files, and its verdict, in the few characters that DICOM allows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, MissingDataError

LONG_STRING = 64
"""Characters of DICOM's value representation LO, of which series descriptions and the meaning of codes are."""

NOTICE = "Research software. Not for clinical use."

CodeTriplet = tuple[str, str, str]
"""Value, coding scheme and meaning of a DICOM code."""

CATEGORY: CodeTriplet = ("91723000", "SCT", "Anatomical Structure")
KIND: CodeTriplet = ("85756007", "SCT", "Tissue")
"""Codes of segments for which the metadata names none: as general as DICOM's own lists of codes have them."""


@dataclass(frozen=True)
class Segment:
    """A class of the label map: its index, from 1, its name, and the codes of its category and type."""

    number: int
    label: str
    category: CodeTriplet = CATEGORY
    kind: CodeTriplet = KIND


@dataclass(frozen=True)
class BundleDescription:
    """A bundle as it calls itself: name (its folder's), title, version, authors, and the classes it segments."""

    name: str
    title: str
    version: str
    authors: str
    segments: tuple[Segment, ...]


def plain_text(text: str, length: int = LONG_STRING) -> str:
    r"""Returns text that every DICOM character set can hold, cut to a length.

    >>> plain_text("caf\u00e9 \\ bar"), plain_text("hippocampus", 8)
    ('caf? / bar', 'hippoc..')
    """
    spaced = " ".join(text.replace("\\", "/").split())
    plain = "".join(letter if " " <= letter <= "~" else "?" for letter in spaced)
    return plain if len(plain) <= length else plain[: length - 2].rstrip() + ".."


def verdict_word(result: Mapping[str, Any]) -> str:
    """Returns the verdict in as few words as possible.

    Args:
        result: Result of ``SpectralVerdictd``: ``oodm``, ``threshold``, ``is_ood``, which are ``None`` or absent where
            there is no verdict.
    """
    if result.get("is_ood") is None:
        return "NO VERDICT"
    return "OUT OF DISTRIBUTION" if result["is_ood"] else "in distribution"


def verdict_sentence(result: Mapping[str, Any]) -> str:
    """Returns the verdict with its numbers, to four digits; at most 55 characters.

    >>> verdict_sentence({"oodm": 0.012345, "threshold": 0.0456, "is_ood": False})
    'in distribution, OODM 0.01235 (limit 0.0456)'
    """
    word = verdict_word(result)
    if result.get("is_ood") is None:
        return word
    return f"{word}, OODM {result['oodm']:.4g} (limit {result['threshold']:.4g})"


def segment_label(label: str, result: Mapping[str, Any], *, mark_segments: bool = True) -> str:
    """Returns the label of a segment in at most 64 characters; of a scan out of distribution, it says so.

    >>> segment_label("hippocampus", {"is_ood": True})
    'hippocampus (OUT OF DISTRIBUTION)'

    Args:
        label: Name of the class.
        result: Verdict, as for :func:`verdict_word`.
        mark_segments: Whether labels say so. Default true.
    """
    end = f" ({verdict_word(result)})" if mark_segments and result.get("is_ood") else ""
    return plain_text(label, LONG_STRING - len(end)) + end


def series_description(bundle: BundleDescription, text: str) -> str:
    """Returns ``<text>: <name> <version>`` in at most 64 characters.

    The text comes first, since viewers cut descriptions off. It stays whole: where it is too long, the version is left
    out (other attributes hold it), then the name cut.
    """
    name = plain_text(bundle.name)
    heads = (plain_text(f"{name} {bundle.version}"), name, plain_text(name, LONG_STRING - len(f": {text}")))
    return next(line for head in heads if len(line := f"{text}: {head}") <= LONG_STRING)


def describe_bundle(metadata_file: str | Path, class_names: Mapping[str, str] | None = None) -> BundleDescription:
    """Returns what a bundle's metadata say of it.

    Args:
        metadata_file: Path of the bundle's ``configs/metadata.json``. Segments are the entries of ``channel_def`` of
            the output ``pred`` but the background, 0. ``dicom_codes`` may give the codes of each, as
            ``{"1": {"category": [value, scheme, meaning], "type": [value, scheme, meaning]}}``.
        class_names: Index of a class, as a text -> its name, of weights that were trained on other classes. They give
            the title in place of the bundle's; names like ``class 1`` stand for classes without a name. Codes stay with
            the names that the metadata give them to. Default none.

    Raises:
        MissingDataError: When there is no such file.
        ConfigError: When it does not describe the segments.
    """
    path = Path(metadata_file)
    if not path.is_file():
        raise MissingDataError(f"{path} does not exist; DICOM output takes the names of segments from metadata_file")
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        classes = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        codes = metadata.get("dicom_codes", {})
        given = class_names or classes
        codes = {index: code for index, code in codes.items() if given.get(index) == classes.get(index)}
        names = {int(index): str(name) for index, name in given.items() if int(index) > 0}
        segments = tuple(_describe_segment(number, names[number], codes) for number in sorted(names))
        title, version, authors = [str(metadata[key]) for key in ("name", "version", "authors")]
        title = _title_of(list(class_names.values())) if class_names else title
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} does not describe the segments of a DICOM file ({type(error).__name__}: {error}); it needs name, "
            "version, authors, channel_def of the output pred, and dicom_codes, if any, as [value, scheme, meaning]"
        ) from error
    if not names or sorted(names) != list(range(1, len(names) + 1)):
        raise ConfigError(
            f"{path} names the classes {sorted(names)} in channel_def; a DICOM segmentation needs 1, 2, ... without gap"
        )
    return BundleDescription(path.resolve().parents[1].name, title, version, authors, segments)


def _title_of(names: Sequence[str]) -> str:
    """What weights of such classes do, in at most 64 characters."""
    if names == [numbered_class(index) for index in range(1, len(names) + 1)]:
        return f"Segmentation of {len(names)} unnamed class(es)"
    title = f"Segmentation of {', '.join(map(str, names))}"
    return title if len(title) <= LONG_STRING else f"Segmentation of {len(names)} classes"


def numbered_class(index: int) -> str:
    """Returns what a class without a name is called, such as ``class 1``.

    Args:
        index: Index of the class, from 1.
    """
    return f"class {index}"


def class_labels(metadata_file: str | Path | None, class_names: Mapping[str, str] | None = None) -> dict[int, str]:
    """Returns the number of each class, from 1, and its name; empty where no file is given.

    Args:
        metadata_file: Path of the bundle's ``configs/metadata.json``, or ``None``.
        class_names: Index of a class, as a text -> its name, in place of those of the file. Default none.

    Raises:
        MissingDataError: When there is no such file.
        ConfigError: When it does not name the classes.
    """
    segments = describe_bundle(metadata_file, class_names).segments if metadata_file else ()
    return {segment.number: segment.label for segment in segments}


def _describe_segment(number: int, label: str, codes: Mapping[str, Any]) -> Segment:
    """A segment with the codes that the metadata gives it."""
    given = codes.get(str(number), {})
    return Segment(number, label, _code(given.get("category", CATEGORY)), _code(given.get("type", KIND)))


def _code(items: Any) -> CodeTriplet:
    """A code from a list of three texts."""
    value, scheme, meaning = items
    if not all(isinstance(item, str) and item for item in (value, scheme, meaning)):
        raise TypeError(f"{items} is no code")
    return value, scheme, meaning
