"""What a measured number is: a value with its unit, its direction, its interval and how many rows it rests on; and what all declarations share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from headwater.errors import DataError

Bounds = tuple[float, float] | None


@dataclass(frozen=True)
class Declared:
    """A measure as data: what to compute from rows, in fields that are plain values."""

    kind: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """The declaration as plain JSON values, for `measure_from_json`."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Metric:
    """One number of a result.

    `value`, both ends of `ci95` and `chance` are in `unit` ("%" means percent, "" a number without unit).
    `n` counts the scored rows (utterances or trials) and `clusters` what was resampled for the interval: speakers where
    they are known, else rows. `ci95` is None where no interval can be given; `note` then says why. `measure` is the
    declaration that the number was computed by (see `headwater.metrics.measures`).
    """

    value: float
    unit: str
    higher_is_better: bool
    n: int
    ci95: tuple[float, float] | None
    chance: float | None = None
    clusters: int | None = None
    note: str | None = None
    measure: Mapping[str, Any] | None = field(default=None, hash=False)

    @property
    def includes_chance(self) -> bool:
        """Whether the interval holds the value of a guess, so that the result is not shown to differ from guessing."""
        return self.chance is not None and self.ci95 is not None and self.ci95[0] <= self.chance <= self.ci95[1]

    def describe(self) -> str:
        """The number in words: `83.33 % (95 % interval 71.20 to 91.05)`."""
        text = f"{number(self.value, self.unit)} {self.unit}".rstrip()
        if self.ci95 is None:
            return f"{text} (no interval)"
        low, high = (number(end, self.unit) for end in self.ci95)
        return f"{text} (95 % interval {low} to {high})"

    def brief(self) -> str:
        """The number in a cell, without its unit: `83.33 [71.20, 91.05]`, or the value alone where there is no interval."""
        value = number(self.value, self.unit)
        return value if self.ci95 is None else f"{value} [{', '.join(number(end, self.unit) for end in self.ci95)}]"

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values with every field."""
        return {**asdict(self), "ci95": None if self.ci95 is None else list(self.ci95)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Metric:
        """The inverse of `to_json`. Raises DataError naming a key that is missing, unknown or of the wrong kind."""
        known = [item.name for item in fields(cls)]
        if unknown := sorted(set(content) - set(known)):
            raise DataError(f"A metric has the unknown key {unknown[0]!r}; the keys are {', '.join(known)}.")
        for key in ("value", "unit", "higher_is_better", "n", "ci95"):
            if key not in content:
                raise DataError(f"A metric lacks the key {key!r}.")
        for key, kind in (("value", (int, float)), ("unit", str), ("higher_is_better", bool), ("n", int)):
            if not isinstance(content[key], kind):
                raise DataError(f"The key {key!r} of a metric is {content[key]!r}.")
        ends = content["ci95"]
        if ends is not None and (len(ends) != 2 or not all(isinstance(end, (int, float)) for end in ends)):
            raise DataError(f"The key 'ci95' of a metric is {ends!r}; it is null or the two ends of the interval.")
        return cls(**{**content, "ci95": None if ends is None else (float(ends[0]), float(ends[1]))})


def number(value: float, unit: str) -> str:
    """`value` as it is printed: two decimals, or four for numbers without unit such as a detection cost."""
    text = f"{value:.{2 if unit else 4}f}"
    return text.lstrip("-") if float(text) == 0 else text
