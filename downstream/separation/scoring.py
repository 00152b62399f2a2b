"""How well sources were separated: a row a mixture, and a few to listen to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from headwater.audio.write import Signal
from headwater.metrics import Mean, Measure, Ratio
from headwater.metrics.breakdown import Breakdown
from headwater.metrics.extras import available, computed
from headwater.separation import quality as perceptual
from headwater.separation.bss import sdr_improvement
from headwater.separation.losses import assign, gram, si_sdr
from headwater.separation.rescale import RULES
from headwater.train.accumulators import SoundAccumulator, not_finite
from headwater.train.task import Batch, Item

from .settings import SeparationConfig
from .systems import System, alone

SI_SDRI = Mean("si_sdri", "si_sdri", "dB", higher_is_better=True, chance=0.0)
SI_SDR = Mean("si_sdr", "si_sdr", "dB", higher_is_better=True)
SDRI = Mean("sdri", "sdri", "dB", higher_is_better=True)
COUNTED = Ratio("counted", "right", "asked")
STOI = Mean("stoi", "stoi", "", higher_is_better=True, optional=True)
PESQ = Mean("pesq", "pesq", "", higher_is_better=True, optional=True)
SNR_STEP = 2.0  # dB: width of the groups by input SNR
BREAKDOWNS = (Breakdown("snr_from"), Breakdown("genders"))
EXTRAS = (perceptual.STOI, perceptual.PESQ)
CLIPS = 4


def quality(config: SeparationConfig) -> tuple[tuple[Measure, ...], list[str]]:
    """Those of STOI and PESQ that can be had, and notes on those that cannot."""
    return available((STOI, PESQ), EXTRAS, config.rate) if config.quality else ((), [])


class Scores(SoundAccumulator):
    """Of mixtures by id. In tests SDRi, STOI and PESQ, too, and clips."""

    def __init__(self, config: SeparationConfig, system: System, measures: Sequence[Measure], *, test: bool) -> None:
        super().__init__(measures, CLIPS)
        self.config, self.system, self.test = config, system, test

    def add(self, output: Any, batch: Batch) -> None:
        mixtures, sources = alone(batch.inputs["mixture"], batch), alone(batch.labels["sources"], batch)
        counts = batch.labels["count"].tolist()
        for item, wav, given, made, count in zip(
            batch.items, mixtures, sources, self.system.estimates(output, batch), counts, strict=True
        ):
            # A speaker that was not found is as well separated as the mixture.
            padded = torch.cat([made, wav.expand(max(0, count - len(made)), -1)])
            self._score(item, wav, given[:count], padded, len(made))

    def _score(self, item: Item, wav: Tensor, sources: Tensor, estimates: Tensor, found: int) -> None:
        if not bool(estimates.isfinite().all()):
            raise not_finite("an estimate", item.utterance)
        pairs = si_sdr(gram(estimates[None], sources[None]))[0]
        order = best_order(pairs)
        own, before = pairs[order, range(len(sources))], si_sdr(gram(wav[None, None], sources[None]))[0, 0]
        ordered = estimates[order]
        row: dict[str, Any] = {"id": item.id, **described(item, sources)}
        row |= {"si_sdr": float(own.mean()), "si_sdri": float((own - before).mean())}
        if self.config.sources is None and self.config.system != "oracle":
            row |= {"found": found, "right": int(found == len(sources)), "asked": 1}
        if self.test:
            improved = sdr_improvement(ordered[None], sources[None], wav[None]).value[0].mean()
            # A silent estimate has no SDR; what SI-SDR says of it stands in its place.
            row["sdri"] = float(improved) if bool(improved.isfinite()) else row["si_sdri"]
            row |= self._quality(ordered, sources) if self.config.quality else {}
            if self.clips.wants(item.id):
                self.clips.add(item.id, self._heard(wav, ordered, sources))
        self.scored[item.id] = row

    def _quality(self, estimates: Tensor, sources: Tensor) -> dict[str, float | None]:
        """Means over sources; null where one of them has none."""
        pairs = [(s.cpu().double().numpy(), e.cpu().double().numpy()) for s, e in zip(sources, estimates, strict=True)]
        scores = [computed(EXTRAS, *pair, self.config.rate) for pair in pairs]
        found = dict[str, float | None]()
        for name in scores[0]:
            values = [value for score in scores if (value := score[name]) is not None]
            found[name] = math.fsum(values) / len(values) if len(values) == len(scores) else None
        return found

    def _heard(self, wav: Tensor, estimates: Tensor, sources: Tensor) -> dict[str, Signal]:
        played = {"mixture": wav}
        scaled = RULES[self.config.rescale](estimates, wav)
        for number, (estimate, source) in enumerate(zip(scaled, sources, strict=True), start=1):
            played |= {f"estimate {number}": estimate, f"reference {number}": source}
        return {name: Signal(one, self.config.rate) for name, one in played.items()}


def best_order(pairs: Tensor) -> Tensor:
    """Of (M, C) dB, M >= C: which estimate is whose, (C,); the M - C that fit nobody are left out."""
    extra = pairs.new_zeros(len(pairs), len(pairs) - pairs.shape[1])
    return assign(torch.cat([-pairs, extra], 1)[None])[0, : pairs.shape[1]]


def described(item: Item, sources: Tensor) -> dict[str, Any]:
    """What is known of a mixture: who speaks, and how far the loudest source lies above the quietest, in dB: of any number of them, in any order."""
    mixture = item.utterance.mixture
    assert mixture is not None
    speakers = [part.speaker for part in mixture.parts if not part.noise]
    energies = sources.double().square().sum(1)
    snr = float(10 * torch.log10(energies.max() / energies.min()))
    genders = "".join(sorted(item.utterance.labels.get("genders", "")))
    return {
        **{f"speaker{number}": name for number, name in enumerate(speakers, start=1) if name is not None},
        **({"genders": genders} if genders else {}),
        "snr": snr,
        "snr_from": SNR_STEP * (snr // SNR_STEP),
    }
