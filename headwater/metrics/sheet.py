"""Scores that come as files: what a task reads from them, for `headwater score`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from headwater.metrics.measures import Measure
from headwater.metrics.rows import Row

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


@dataclass(frozen=True)
class ScoreSheet:
    """Scored rows and what is asked of them.

    keys: by which rows are parted where the user names none. shared: the value of rows that belong to every group, as in `Breakdown`. notes: what must be
    known about the numbers.
    """

    rows: Sequence[Row]
    measures: tuple[Measure, ...]
    keys: tuple[str, ...] = ()
    shared: str | None = None
    notes: tuple[str, ...] = ()


class Scorer(Protocol):
    """The class that a task's card names under `scorer`, in `scoring.py` beside the card."""

    @staticmethod
    def add_arguments(parser: ArgumentParser) -> None:
        """Add the options that say what the files are; the files of scores are `args.scores`."""

    @staticmethod
    def read(args: Namespace) -> ScoreSheet:
        """Read the files. Raises DataError with file and line, or UsageError for options that do not fit."""
