"""Names the errors a user can cause, each with one line that says what, where, what is accepted and what to do.

Every class is a :class:`BundleError` *and* the matching built-in, so that callers may catch either.
"""

from __future__ import annotations


def escaped(text: str) -> str:
    r"""Returns a text as a terminal shows it: whatever it cannot print is written as an escape, such as ``\x1b``.

    That holds for line breaks, for marks that turn the direction of writing, and for bytes of a file name that are no
    UTF-8.

    Args:
        text: Text with any characters.

    Example:
        >>> print(escaped("a\x1b[2J"))
        a\x1b[2J
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def one_line(text: str) -> str:
    """Returns a text as one line that a terminal shows as it is: files may hold anything, messages quote them.

    Args:
        text: Text of a message, of any number of lines.
    """
    return escaped(" ".join(text.split()))


class BundleError(Exception):
    """Base of every error raised on purpose by this collection."""


class ConfigError(BundleError, ValueError):
    """A setting has a value that is not accepted, or a key that does not exist."""


class MissingDataError(BundleError, FileNotFoundError):
    """A folder or file that was asked for is not there, or holds nothing usable."""


class ImageError(BundleError, ValueError):
    """An image cannot be read or cannot be used by this bundle."""


class LabelError(BundleError, ValueError):
    """A label does not fit its image or holds values that are not accepted."""


class DicomError(ImageError):
    """A DICOM series is incomplete, inconsistent or not an image."""


class FeatureError(BundleError, ValueError):
    """Feature maps from which no spectral signature can be computed."""


class NotEnoughCasesError(BundleError, ValueError):
    """Too few training cases for what was asked."""


class BankError(BundleError, ValueError):
    """A signature bank that cannot be read, or whose content contradicts itself."""


class BankMismatchError(BankError):
    """A signature bank that was fitted to other weights or other settings than the ones in use."""


class WeightsError(BundleError, RuntimeError):
    """Network weights that are missing, unreadable or of another network."""


class OutputError(BundleError, OSError):
    """Results cannot be written."""


class CasesFailedError(BundleError, RuntimeError):
    """Some cases failed; the others were finished and written."""


class RunsFailedError(BundleError, RuntimeError):
    """Some runs of an experiment failed; the others were finished and written."""


class ArchiveError(BundleError, ValueError):
    """An archive of a bundle that is damaged, hostile, or made for other packages than those installed."""


class SignatureError(ArchiveError):
    """An archive without a valid signature, or a key that cannot be used."""
