"""The errors that people meet. Each says what was wrong, where, and what to do; the command line prints the text and exits with `exit_code`."""

from __future__ import annotations


class HeadwaterError(Exception):
    """Something went wrong that is neither usage nor data (a full disk, a diverged run). Exit code 1."""

    exit_code = 1


class UsageError(HeadwaterError):
    """A wrong option, name or setting. Exit code 2."""

    exit_code = 2


class DataError(HeadwaterError):
    """Unreadable, inconsistent or missing data. Exit code 3."""

    exit_code = 3


def place_of(error: BaseException) -> str:
    """`FILE:LINE` where an exception of a user's code was raised."""
    import traceback

    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"


def nearest(name: str, known: list[str], count: int = 3) -> str:
    """A phrase such as ` Did you mean "fbank"?`, or the empty string when nothing in `known` is close to `name`."""
    import difflib

    close = difflib.get_close_matches(name, known, n=count, cutoff=0.55)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
