"""Pieces of utterances for training: drawn anew each epoch, or all of them as items of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from headwater.data.corpus import Utterance
from headwater.data.mixtures import Mixture, pieces
from headwater.train.task import Draw, Item, Sounds


def place(samples: int, size: int, step: int, draw: Draw, latest: int) -> tuple[int, int]:
    """Where the piece of a longer utterance lies that is trained on: (first, last), `first` a multiple of `step`, all places being equally likely.

    The last place ends with the utterance, even if its piece is shorter than `size` by less than `step`: over epochs every sample is trained on. latest: the
    last sample at which a frame begins.
    """
    places = 1 + min(-((size - samples) // step), latest // step)
    first = int(draw.generator("crop").integers(places)) * step
    return first, min(first + size, samples)


def cut(signals: Mapping[str, Tensor], first: int, last: int, hops: Mapping[str, int]) -> dict[str, Tensor]:
    """The piece of each signal (..., samples). One with a hop has a value every so many samples, and `first` is a multiple of it."""
    return {
        name: signal[..., first // hops.get(name, 1) : -(-last // hops.get(name, 1))]
        for name, signal in signals.items()
    }


def cut_sounds(sounds: Sounds, first: int, last: int, hops: Mapping[str, int]) -> Sounds:
    return Sounds(cut(sounds.inputs, first, last, hops), cut(sounds.labels, first, last, hops))


def consecutive(items: Iterable[Item], size: int, shortest: int = 1) -> list[Item]:
    """All pieces of all items, none of which is longer than `size` samples; see `pieces`. Labels are those of the whole, so they may not depend on time.

    A piece is cut from what is mixed and resampled as a whole, so its edges see their neighbours there, but the upstream hears it alone.
    """
    return [
        replace(item, utterance=piece_of(item.utterance, first, last), num_samples=last - first)
        if last - first < item.num_samples
        else item
        for item in items
        for first, last in pieces(item.num_samples, size, shortest)
    ]


def piece_of(utterance: Utterance, first: int, last: int) -> Utterance:
    """The piece from sample `first` to `last` of an utterance, with an id of its own."""
    whole = utterance.mixture or Mixture((), stored=True)
    mixture = replace(whole, first=whole.first + first, last=whole.first + last)
    return replace(utterance, id=f"{utterance.id}/{first}-{last}", mixture=mixture)
