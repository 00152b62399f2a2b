"""One and rest: a network of two outputs takes one speaker out at a time and is given its own rest again, for any number of speakers
(https://arxiv.org/abs/1904.03065)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from headwater.separation.losses import gram, si_snr
from headwater.separation.rescale import least_squares


class Taken(NamedTuple):
    """loss (B,) float32; speaker (B,): whom the first output took."""

    loss: Tensor
    speaker: Tensor


def one_and_rest_loss(
    outputs: Tensor, sources: Tensor, lengths: Tensor | None = None, counts: Tensor | None = None
) -> Taken:
    """Minus SI-SNR of the first output (B, 2, T) with one source of (B, C, T), whichever fits best, and 1 / (C - 1) of that of the second with all others' sum.

    counts: (B,) speakers of each mixture, where some have fewer than C; their sources come first, the others are silent. One speaker leaves no rest to score.
    """
    most = sources.shape[1]
    count = torch.full((len(sources),), most, device=sources.device) if counts is None else counts
    speakers = torch.arange(most, device=sources.device) < count[:, None]
    heard = sources * speakers[:, :, None]
    others = heard.sum(1, keepdim=True) - heard
    one = si_snr(gram(outputs[:, :1], heard, lengths))[:, 0]
    rest = si_snr(gram(outputs[:, 1:], others, lengths))[:, 0]
    share = torch.where(count > 1, 1 / (count - 1).clamp(min=1), 0.0)[:, None]
    costs = (-one - share * rest).masked_fill(~speakers, torch.inf)
    loss, speaker = costs.min(1)
    return Taken(loss.float(), speaker)


class Found(NamedTuple):
    """sources (C, T), in the order they were taken out; rest (T,): what was left then; heard: whether the rest still held a speaker when `most` were out."""

    sources: Tensor
    rest: Tensor
    heard: bool


@torch.no_grad()
def take_all(
    mixture: Tensor, separate: Callable[[Tensor], Tensor], *, most: int = 10, quiet_db: float = -15.0
) -> Found:
    """All speakers of a mixture (T,), by a network (B, T) -> (B, 2, T).

    It stops when the rest is `quiet_db` below the mixture, or silent, or after `most` speakers. Both outputs are scaled to what went in each time: the loss
    does not see their level, and a rest at another one would be another mixture.
    """
    rest, taken = mixture, list[Tensor]()
    floor = float(mixture.double().square().sum()) * 10 ** (quiet_db / 10)
    while _is_heard(rest, floor) and len(taken) < most:
        one, rest = least_squares(separate(rest[None])[0], rest)
        taken.append(one)
    return Found(torch.stack(taken) if taken else mixture[None][:0], rest, _is_heard(rest, floor))


def _is_heard(rest: Tensor, floor: float) -> bool:
    energy = float(rest.double().square().sum())
    return energy > floor
