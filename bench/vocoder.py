"""The probe vocoder beside the straightforward form of one: a HiFi-GAN generator of transposed convolutions with as many parameters.

    OMP_WAIT_POLICY=PASSIVE python bench/vocoder.py [--threads 2] [--batch 8] [--seconds 1] [--repetitions 5]

Both go from the same random frames (80 values every 10 ms) to the same number of samples, under the same losses and optimiser. Repetitions are paired (one of
each, in turn); the ratio is the median of the pairs. A step is forward, loss, backward and AdamW; the real-time factor is the time of a forward pass over the
length of what it makes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwater.speed.machine import limits
from headwater.vocoder.fourier import FourierVocoder
from headwater.vocoder.objective import ProbeLoss

RATE, STRIDE, DIM = 16000, 160, 80
# HiFi-GAN's V2 with rates that make 160 samples of a frame (Kong et al., NeurIPS 2020).
RATES, KERNELS = (5, 4, 4, 2), (11, 8, 8, 4)
BLOCK_KERNELS, DILATIONS = (3, 7, 11), (1, 3, 5)
SLOPE = 0.1


class Residual(nn.Module):
    """Dilated convolutions, each followed by a plain one, around a skip (HiFi-GAN's ResBlock1)."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.dilated = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel // 2)) for d in DILATIONS
        )
        self.plain = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=kernel // 2) for _ in DILATIONS)

    def forward(self, x: Tensor) -> Tensor:
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            x = x + plain(functional.leaky_relu(dilated(functional.leaky_relu(x, SLOPE)), SLOPE))
        return x


class TimeDomain(nn.Module):
    """Frames (B, T, D) -> (B, T * 160), channels halved at each of four steps up."""

    def __init__(self, in_dim: int, channels: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(in_dim, channels, 7, padding=3)
        widths = [channels // 2**step for step in range(len(RATES) + 1)]
        self.up = nn.ModuleList(
            nn.ConvTranspose1d(wide, narrow, kernel, rate, padding=(kernel - rate) // 2)
            for wide, narrow, kernel, rate in zip(widths, widths[1:], KERNELS, RATES, strict=False)
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(Residual(width, kernel) for kernel in BLOCK_KERNELS) for width in widths[1:]
        )
        self.last = nn.Conv1d(widths[-1], 1, 7, padding=3)

    def forward(self, frames: Tensor) -> Tensor:
        x = self.embed(frames.transpose(1, 2))
        for up, blocks in zip(self.up, self.blocks, strict=True):
            x = up(functional.leaky_relu(x, SLOPE))
            assert isinstance(blocks, nn.ModuleList)
            x = torch.stack([block(x) for block in blocks]).mean(0)
        return torch.tanh(self.last(functional.leaky_relu(x)))[:, 0]


def parameters(module: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(value.numel() for value in module.parameters())


def like(budget: int) -> TimeDomain:
    """The time-domain generator whose parameters come nearest to this many; channels are a multiple of 16."""
    return min(
        (TimeDomain(DIM, channels) for channels in range(32, 513, 16)), key=lambda it: abs(parameters(it) - budget)
    )


def stepper(module: nn.Module, forward: Callable[[], Tensor], target: Tensor) -> Callable[[], None]:
    """One training step of a module whose `forward` makes waveforms of a fixed batch."""
    loss, optimizer = ProbeLoss(RATE), torch.optim.AdamW(module.parameters(), 5e-4)
    samples = torch.full((len(target),), target.shape[1])

    def step() -> None:
        total, count = loss(forward(), target, samples)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()

    return step


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def paired(first: Callable[[], object], second: Callable[[], object], repetitions: int) -> tuple[float, float, float]:
    """Median seconds of both, and the median of their ratio pair by pair."""
    first(), second()  # what is set up once is not counted
    pairs = [(seconds(first), seconds(second)) for _ in range(repetitions)]
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    return a, b, statistics.median(one / other for one, other in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the probe vocoder beside a time-domain generator.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=1, help="of each waveform of the batch")
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    size = args.seconds * RATE // STRIDE
    frames = torch.randn(args.batch, size, DIM, generator=generator)
    target = 0.05 * torch.randn(args.batch, size * STRIDE, generator=generator)
    lengths, samples = torch.full((args.batch,), size), torch.full((args.batch,), size * STRIDE)
    fourier = FourierVocoder(DIM, STRIDE, STRIDE / 2)
    plain = like(parameters(fourier))
    forms: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
        "time domain": (plain, lambda: plain(frames)),
        "Fourier": (fourier, lambda: fourier(frames, lengths, samples)),
    }
    print(f"{limits(args.threads)}; a batch is {args.batch} x {args.seconds} s")
    for name, (module, forward) in forms.items():
        made = forward()
        if made.shape != target.shape:
            raise SystemExit(f"{name} makes {tuple(made.shape)}, not {tuple(target.shape)}; nothing was timed")
        print(f"{name:<12} {parameters(module):>10,} parameters")
    audio = args.batch * args.seconds
    steps = [stepper(module, forward, target) for module, forward in forms.values()]
    slow, fast, ratio = paired(*steps, args.repetitions)
    print(
        f"training     {1 / slow:.2f} and {1 / fast:.2f} steps a second ({audio / slow:.1f} and {audio / fast:.1f} s of audio); ratio {ratio:.1f}"
    )
    with torch.no_grad():
        slow, fast, ratio = paired(*(forward for _, forward in forms.values()), args.repetitions)
    print(f"synthesis    real-time factor {slow / audio:.4f} and {fast / audio:.4f}; ratio {ratio:.1f}")


if __name__ == "__main__":
    main()
