"""An objective at work: crops of waveforms in batches, drawn anew each epoch, and the loss on speakers held out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headwater.audio.frontends import normalise_level
from headwater.config import PretrainConfig
from headwater.data.batching import deal, plan_evaluation
from headwater.data.corpus import Utterance
from headwater.errors import DataError
from headwater.metrics.measures import Ratio
from headwater.metrics.rows import Table
from headwater.store.features import READERS, enough_memory
from headwater.train.distributed import World
from headwater.train.loop import autocast
from headwater.train.objective import Objective, Share
from headwater.train.work import Portion, Work

LOSS = Ratio("loss", "sum", "count", unit="", higher_is_better=False)
_CROPS, _MASKS, _DEV, _GROUPS = 0xC409, 0x3A5C, 0xDE7, 0x6409  # name the generators of a run


@dataclass(frozen=True)
class Piece:
    """An utterance and its size: samples of a waveform, or frames of features."""

    utterance: Utterance
    size: int


@dataclass(frozen=True)
class Crops:
    """Waveforms (samples,) or features (T, D) of a share, on the training device, and what the objective must know of the batch."""

    wavs: list[Tensor]
    share: Share


class Source:
    """Utterances as they are trained on: at their level, whole, kept in memory as long as `budget` bytes are not spent.

    read: piece -> waveform or features, called from several threads. level: see `Objective`.
    """

    def __init__(self, read: Callable[[Piece], Tensor], level: float | None, budget: float) -> None:
        self.read, self.level, self.left = read, level, budget
        self._held: dict[str, Tensor] = {}

    def __call__(self, piece: Piece) -> Tensor:
        held = self._held.get(piece.utterance.id)
        if held is not None:
            return held
        wav = self.read(piece)
        # A file whose header promises more than it holds would shift the crops of a resumed run.
        if len(wav) != piece.size:
            what = "samples" if wav.dim() == 1 else "frames"
            raise DataError(f"{piece.utterance.path}: {len(wav)} {what} can be read, and its header says {piece.size}")
        if self.level is not None and wav.dim() == 1:
            wav = normalise_level(wav, self.level)
        if (size := wav.numel() * wav.element_size()) <= self.left:
            self.left -= size
            self._held[piece.utterance.id] = wav
        return wav

    def ahead(self, groups: Sequence[Sequence[Piece]]) -> Iterator[list[Tensor]]:
        """The waveforms of each group, read by threads a little ahead."""
        pool = ThreadPoolExecutor(READERS)
        try:
            pending = []
            for group in groups:
                pending.append([pool.submit(self, piece) for piece in group])
                if len(pending) > READERS:
                    yield [future.result() for future in pending.pop(0)]
            for futures in pending:
                yield [future.result() for future in futures]
        finally:
            pool.shutdown(cancel_futures=True)


class Pretraining(Work[Crops]):
    """Trains an objective. Crops, masks and the order of batches are functions of the seed and the place in training, so a place is all a resume needs.

    crop: size of the longest piece, as `Piece.size` counts; None for whole utterances. rate: what `Piece.size` counts a second.
    """

    # The norms of all states but the last have no part in the loss of a pre-norm model.
    may_leave_parameters_unused = True

    def __init__(
        self,
        objective: Objective,
        source: Source,
        train: Sequence[Piece],
        dev: Sequence[Piece],
        config: PretrainConfig,
        *,
        crop: int | None,
        rate: float,
        world: World,
        device: torch.device,
    ) -> None:
        self.module, self.objective, self.source = objective, objective, source
        self.train, self.dev, self.config = train, dev, config
        self.crop, self.rate, self.world, self.device = crop, rate, world, device
        self.durations = self._seconds(train)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self.objective.parameter_groups(self.config.optimizer.weight_decay)

    def ready(self, portions: Sequence[Portion]) -> Iterator[Crops]:
        places: dict[int, np.ndarray] = {
            epoch: np.random.default_rng([self.config.seed, _CROPS, epoch]).random(len(self.train))
            for epoch in {portion.epoch for portion in portions}
        }
        items = {epoch: self._items(self.train, (_GROUPS, epoch)) for epoch in places}
        shares = [[index for item in portion.share for index in items[portion.epoch][item]] for portion in portions]
        groups = [[self.train[index] for index in share] for share in shares]
        for portion, own, wavs in zip(portions, shares, self.source.ahead(groups), strict=True):
            place = places[portion.epoch]
            cut = [self._cut(wav, place[index]) for wav, index in zip(wavs, own, strict=True)]
            # A share that only keeps step is a batch of its own.
            whole = (portion.batch, portion.rank, portion.ranks)
            batch, rank, ranks = whole if portion.weight else (portion.share, 0, 1)
            pieces = [[self.train[index] for index in items[portion.epoch][item]] for item in batch]
            crops = self._crops(cut, pieces, (_MASKS, portion.epoch, portion.number), rank, ranks)
            known = tuple(
                (self.train[index].utterance.id, self._start(self.train[index].size, place[index])) for index in own
            )
            total = partial(self.world.total, weight=portion.weight)
            yield Crops(crops.wavs, replace(crops.share, places=known, total=total))

    def loss(self, module: nn.Module, ready: Crops) -> tuple[Tensor, Tensor]:
        sums, counts = module(ready.wavs, ready.share)
        return sums.sum(), counts.sum()

    def evaluate(self) -> tuple[str, float] | None:
        if not self.dev:
            return None
        return LOSS.name, LOSS.value(Table(self.losses()))

    def losses(self) -> list[dict[str, Any]]:
        """The loss on each utterance held out, under the same masks whenever it is asked: rows with id, speaker, sum and count (elements)."""
        batch, items = self.config.batch, self._items(self.dev, (_DEV,))
        plan = plan_evaluation(self._seconds(self.dev), size=batch.size, max_seconds=batch.seconds)
        world = self.world
        shares = [deal(part, world.rank, world.ranks) for part in plan]
        groups = [[self.dev[index] for item in share for index in items[item]] for share in shares]
        mode = self.module.training
        self.module.eval()
        rows: list[dict[str, Any]] = []
        with (
            torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []),
            torch.no_grad(),
            enough_memory("on held-out speech; lower batch.seconds or batch.size"),
        ):
            wavs = self.source.ahead(groups)
            for number, (part, group) in enumerate(zip(plan, groups, strict=True)):
                # The first piece of each, not a random one.
                cut = [self._cut(wav, 0.0) for wav in next(wavs)]
                if not group:
                    continue
                pieces = [[self.dev[index] for index in items[item]] for item in part]
                crops = self._crops(cut, pieces, (_DEV, number), world.rank, world.ranks)
                known = tuple((piece.utterance.id, 0) for piece in group)
                with autocast(self.config, self.device):
                    sums, counts = self.objective(crops.wavs, replace(crops.share, places=known))
                for piece, total, count in zip(group, sums.tolist(), counts.tolist(), strict=True):
                    about = {"id": piece.utterance.id, "speaker": piece.utterance.speaker}
                    rows.append({**about, "sum": total, "count": count})
        self.module.train(mode)
        return sorted((row for part in world.gather(rows) for row in part), key=lambda row: str(row["id"]))

    def illustrate(self, events: Any, step: int) -> None:
        if (picture := self.picture()) is not None:
            events.add_image("reconstruction", picture, step)

    def picture(self) -> bytes | None:
        """What the module makes of the first utterance held out (of the training data where there is none)."""
        piece = (self.dev or self.train)[0]
        mode = self.module.training
        self.module.eval()
        try:
            return self.objective.picture(self._cut(self.source(piece), 0.0).to(self.device))
        finally:
            self.module.train(mode)

    def _size(self, piece: Piece) -> int:
        return piece.size if self.crop is None else min(piece.size, self.crop)

    def _items(self, pieces: Sequence[Piece], seeds: tuple[int, ...]) -> list[tuple[int, ...]]:
        """What batches are made of: pieces, or groups of them, by index."""
        if self.objective.together == 1:
            return [(index,) for index in range(len(pieces))]
        generator = np.random.default_rng([self.config.seed, *seeds])
        return grouped([piece.utterance.speaker for piece in pieces], self.objective.together, generator)

    def _seconds(self, pieces: Sequence[Piece]) -> np.ndarray:
        """(items,) seconds of each, by which batches are packed: of a group as if each piece were as long as the longest of its speaker."""
        longest: dict[str | None, int] = defaultdict(int)
        for piece in pieces:
            longest[piece.utterance.speaker] = max(longest[piece.utterance.speaker], self._size(piece))
        items = self._items(pieces, (_GROUPS,))
        alone = [self._size(pieces[item[0]]) for item in items]
        sizes = [
            size if len(item) == 1 else len(item) * longest[pieces[item[0]].utterance.speaker]
            for item, size in zip(items, alone, strict=True)
        ]
        return np.array(sizes, dtype=np.float64) / self.rate

    def _cut(self, wav: Tensor, place: float) -> Tensor:
        """The crop that starts at `place` (0 to 1) of where one can."""
        if self.crop is None or len(wav) <= self.crop:
            return wav
        start = self._start(len(wav), place)
        return wav[start : start + self.crop]

    def _start(self, size: int, place: float) -> int:
        """Where the crop of a piece of `size` begins."""
        return 0 if self.crop is None or size <= self.crop else int(place * (size - self.crop + 1))

    def _crops(
        self, wavs: list[Tensor], batch: Sequence[Sequence[Piece]], seeds: tuple[int, ...], rank: int, ranks: int
    ) -> Crops:
        """To the device in one piece: many small copies would keep a GPU waiting."""
        sizes = [self._size(piece) for item in batch for piece in item]
        counts = sizes if self.objective.features is not None else [self.objective.frames(size) for size in sizes]
        generator = torch.Generator(self.device)
        state = np.random.SeedSequence([self.config.seed, *seeds]).generate_state(2, np.uint32)
        generator.manual_seed(int(state[0]) << 32 | int(state[1]))
        lengths = torch.tensor(counts, device=self.device)
        moved = torch.cat(wavs).to(self.device, non_blocking=True) if wavs else torch.empty(0)
        split = list(moved.split([len(wav) for wav in wavs])) if wavs else []
        groups = tuple(len(item) for item in batch) if self.objective.together > 1 else ()
        return Crops(split, Share(lengths, rank, ranks, generator, groups))


def grouped(speakers: Sequence[str | None], size: int, generator: np.random.Generator) -> list[tuple[int, ...]]:
    """Indices in groups of at most `size` of one speaker, as even as can be, drawn by the generator; what has no speaker is alone.

    How many groups there are, of whom, and how many each holds does not depend on the generator.
    """
    of_speaker: dict[str, list[int]] = defaultdict(list)
    for index, speaker in enumerate(speakers):
        of_speaker[speaker if speaker is not None else f"\0{index}"].append(index)
    groups: list[tuple[int, ...]] = []
    for indices in of_speaker.values():
        parts = np.array_split(generator.permutation(indices), -(-len(indices) // size))
        groups += [tuple(part.tolist()) for part in parts]
    return groups


def hold_out(utterances: Sequence[Utterance], seconds: Sequence[float], share: float, seed: int) -> set[str]:
    """Ids of utterances to validate on, whole speakers that together have about `share` of the audio.

    Speakers are drawn by a generator of the seed. One who alone has more than twice the share is too dear to be set aside. Utterances without a speaker
    count as speakers of their own.
    """
    of_speaker: dict[str, list[int]] = defaultdict(list)
    for number, utterance in enumerate(utterances):
        of_speaker[utterance.speaker if utterance.speaker is not None else f"\0{utterance.id}"].append(number)
    total = sum(seconds)
    names = sorted(of_speaker)
    chosen: set[str] = set()
    held = 0.0
    for index in np.random.default_rng([seed, _DEV]).permutation(len(names)):
        numbers = of_speaker[names[index]]
        size = sum(seconds[number] for number in numbers)
        if held >= share * total or len(names) < 2:
            break
        if size <= 2 * share * total:
            held += size
            chosen |= {utterances[number].id for number in numbers}
    return chosen
