"""Windows, filter banks and the cosine transform, in float32 because the published features were.

A bank built in float64 moves quiet mel bands by more than 1e-4 after normalisation, so the order of operations matters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

WINDOWS: dict[str, Callable[[int, bool], Tensor]] = {
    "povey": lambda size, periodic: torch.hann_window(size, periodic).pow(0.85),
    "hann": torch.hann_window,
    "hanning": torch.hann_window,
    "hamming": torch.hamming_window,
    "blackman": torch.blackman_window,
    "bartlett": torch.bartlett_window,
    "rectangular": lambda size, periodic: torch.ones(size),
}


def window(name: str, size: int, *, periodic: bool, fft_size: int | None = None) -> Tensor:
    """Window `name` of `size` samples, in the middle of `fft_size` zeros when that is given."""
    shape: Tensor = WINDOWS[name](size, periodic)
    if fft_size is None:
        return shape
    left = (fft_size - size) // 2
    return torch.nn.functional.pad(shape, (left, fft_size - size - left))


def kaldi_mel(num_bins: int, fft_size: int, sample_rate: int, low: float, high: float) -> Tensor:
    """Kaldi's mel bank, (fft_size // 2 + 1, num_bins): triangles linear on the scale 1127 ln(1 + f / 700).

    The Nyquist bin has no weight.
    """

    def mel_of(hertz: float) -> float:
        return 1127.0 * math.log(1.0 + hertz / 700.0)

    step = (mel_of(high) - mel_of(low)) / (num_bins + 1)
    edges = mel_of(low) + torch.arange(num_bins + 2) * step
    frequencies = sample_rate / fft_size * torch.arange(fft_size // 2)
    mel = 1127.0 * (1.0 + frequencies / 700.0).log()
    bank = _triangles(mel, edges)
    return torch.nn.functional.pad(bank, (0, 0, 0, 1))


def htk_mel(num_bins: int, num_freqs: int, sample_rate: int) -> Tensor:
    """HTK's mel bank over 0 .. sample_rate / 2, (num_freqs, num_bins).

    Edges are equally spaced on 2595 log10(1 + f / 700), triangles linear in Hz and of height 1.
    """
    top = 2595.0 * math.log10(1.0 + sample_rate / 2 / 700.0)
    edges = 700.0 * (10.0 ** (torch.linspace(0.0, top, num_bins + 2) / 2595.0) - 1.0)
    return _triangles(torch.linspace(0, sample_rate // 2, num_freqs), edges)


def linear_bank(num_bins: int, num_freqs: int, top: float) -> Tensor:
    """Triangles with equally spaced edges over 0 .. `top` Hz, (num_freqs, num_bins), maximum 1."""
    return _triangles(torch.linspace(0, top, num_freqs), torch.linspace(0, top, num_bins + 2))


def dct(num_inputs: int, num_outputs: int) -> Tensor:
    """Orthonormal DCT-II as a matrix (num_inputs, num_outputs)."""
    n = torch.arange(num_inputs, dtype=torch.float64)
    k = torch.arange(num_outputs, dtype=torch.float64)
    matrix = torch.cos(math.pi / num_inputs * (n[:, None] + 0.5) * k) * math.sqrt(2.0 / num_inputs)
    matrix[:, 0] = math.sqrt(1.0 / num_inputs)
    return matrix.float()


def lifter(num_ceps: int, width: float) -> Tensor:
    """Kaldi's cepstral lifter, 1 + width / 2 sin(pi i / width), (num_ceps,)."""
    return 1.0 + 0.5 * width * torch.sin(math.pi * torch.arange(num_ceps) / width)


def _triangles(points: Tensor, edges: Tensor) -> Tensor:
    """(len(points), len(edges) - 2): triangle i rises from edge i to edge i + 1 and falls to edge i + 2."""
    widths = edges.diff()
    rising = (points[:, None] - edges[:-2]) / widths[:-1]
    falling = (edges[2:] - points[:, None]) / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0.0)
