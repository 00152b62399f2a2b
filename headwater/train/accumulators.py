"""What accumulators of several tasks share: rows by utterance, sounds to listen to, and the error for an answer that is no number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headwater.errors import DataError, HeadwaterError
from headwater.metrics import Metric, evaluate
from headwater.metrics.rows import Table
from headwater.train.clips import Clips
from headwater.train.task import Accumulator

if TYPE_CHECKING:
    from headwater.audio.write import Signal
    from headwater.data.corpus import Utterance
    from headwater.metrics import Measure


def not_finite(what: str, utterance: Utterance) -> HeadwaterError:
    """The error for an answer to an utterance that is NaN or infinite: it would sort somewhere, or win, and nothing would show it."""
    return HeadwaterError(
        f"{what} of {utterance.id!r} ({utterance.path}) is NaN or infinite: training diverged (lower optimizer.lr), or the upstream gives such values "
        "(`headwater check upstream NAME` tells)"
    )


class RowAccumulator(Accumulator):
    """Base of those with one row an utterance: `add` puts it into `scored`, by id."""

    def __init__(self, measures: Sequence[Measure]) -> None:
        super().__init__(measures)
        self.scored: dict[str, dict[str, Any]] = {}

    def settle(self) -> None:
        """Bring into `scored` what `add` put off, such as waiting for the device; called before rows are read."""

    def state(self) -> Any:
        self.settle()
        return self.scored

    def merge(self, state: Any) -> None:
        self.settle()
        self.scored.update(state)

    def rows(self) -> list[dict[str, Any]]:
        self.settle()
        return [self.scored[name] for name in sorted(self.scored)]


class SoundAccumulator(RowAccumulator):
    """Base of those that score sounds against others: `add` offers `clips` some to listen to, and a measure may be defined for none."""

    def __init__(self, measures: Sequence[Measure], clips: int) -> None:
        super().__init__(measures)
        self.clips = Clips(clips)

    def state(self) -> Any:
        return super().state(), self.clips.state()

    def merge(self, state: Any) -> None:
        super().merge(state[0])
        self.clips.merge(state[1])

    def result(self, seed: int = 0) -> dict[str, Metric]:
        """A measure that is defined for no utterance (the F0 error of whispers) is left out, and the first one's note says so."""
        table = Table(self.rows())
        kept, left = [], []
        for measure in self.measures:
            try:
                measure.value(table)
            except DataError:
                if measure is self.measures[0]:
                    raise
                left.append(measure.name)
            else:
                kept.append(measure)
        found = evaluate(kept, table, seed)
        if left:
            first = self.measures[0].name
            note = f"no {', '.join(left)}: defined for none of {len(table)} utterances"
            found[first] = replace(found[first], note="; ".join(filter(None, (note, found[first].note))))
        return found

    def audio(self) -> Mapping[str, Mapping[str, Signal]]:
        return self.clips.held
