"""What went wrong, as one line for whoever has to mend it."""

from __future__ import annotations

from ..errors import BundleError, one_line


def find_bundle_error(error: BaseException | None) -> BundleError | None:
    """Returns the first error of ours in a chain of exceptions; MONAI wraps errors in its own."""
    while error is not None:
        if isinstance(error, BundleError):
            return error
        error = error.__cause__ or error.__context__
    return None


def error_line(error: BaseException) -> str:
    """Returns one line that tells what went wrong: our own message, or else the innermost error's."""
    own = find_bundle_error(error)
    while own is None and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return one_line(str(own) if own is not None else ": ".join(filter(None, (type(error).__name__, str(error)))))
