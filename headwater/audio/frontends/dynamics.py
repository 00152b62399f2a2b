"""What is done to the features of one utterance after its spectrum: deltas, mean and variance normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# A dimension whose deviation is below this share of its mean moves by rounding alone; scaled to one it would be noise.
_ROUNDING = 1e-6
_CHUNK = 8192


@dataclass(frozen=True)
class Dynamics:
    """Deltas up to `order`, each over `reach` frames on either side, then normalisation if `cmvn`.

    delta[t] = sum_{k=1..reach} k (x[t+k] - x[t-k]) / divisor, with the first and last frame repeated outwards.
    """

    order: int = 0
    reach: int = 2
    divisor: float = 10.0
    cmvn: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, D * (order + 1))."""
        if self.order:
            parts = [x]
            for _ in range(self.order):
                parts.append(self._delta(parts[-1]))
            x = torch.cat(parts, dim=1)
        return normalise(x) if self.cmvn else x

    def _delta(self, x: Tensor) -> Tensor:
        n, size = self.reach, len(x)
        padded = torch.cat([x[:1].expand(n, -1), x, x[-1:].expand(n, -1)])
        total = padded[n + 1 : n + 1 + size] - padded[n - 1 : n - 1 + size]
        for k in range(2, n + 1):
            total = total + k * (padded[n + k : n + k + size] - padded[n - k : n - k + size])
        return total / self.divisor


STATIC = Dynamics()


def regression(order: int, window: int, cmvn: bool) -> Dynamics:
    """Deltas by regression over `window` (odd) frames, as Kaldi and torchaudio have them."""
    reach = (window - 1) // 2
    return Dynamics(order, reach, divisor=2.0 * sum(k * k for k in range(1, reach + 1)), cmvn=cmvn)


def normalise(x: Tensor) -> Tensor:
    """(x - mean) / (std + 1e-10) for each dimension of x (T, D), with the unbiased std.

    The std of a constant dimension, or of a single frame, is taken as 1.
    """
    mean = x.mean(dim=0)
    # In chunks, as the squares of an hour of frames would be one more copy of them all.
    squares = torch.stack([(chunk - mean).square().sum(dim=0) for chunk in x.split(_CHUNK)]).sum(dim=0)
    variance = squares / max(len(x) - 1, 1)
    still = variance <= (_ROUNDING * mean.detach()).square()
    std = torch.where(still, 1.0, variance).sqrt()
    return (x - mean).div_(std + 1e-10)
