"""Separation: all pairs from one matrix against the loss written out, and Conv-TasNet's training and inference, beside asteroid's where it is installed.

    OMP_WAIT_POLICY=PASSIVE python bench/separation.py [--speakers 2 3 5 10] [--seconds 4] [--batch 4] [--repeats 5] [--threads 2] [--device cpu] [--small]

- loss: permutation-invariant SI-SNR and its gradient. The rival centres and projects every pair of estimate and source in a tensor of (B, C, C, T), as most
  training code does, and tries all orders up to five speakers, one after the other (10 have 3.6 million: it takes scipy's assignment, too). Values are
  compared.
- parts: depthwise convolutions, the decoder and 1x1 convolutions, against torch's own and other layouts.
- conv-tasnet: N512 L16 B128 H512 Sc128 P3 X8 R3, with gLN and, causal, with the cumulative norm: steps of training a second (forward, loss, backward,
  Adam), and inference's time over the sound's. --small takes N512 L40 B128 H256 X7 R2.

The best of --repeats counts, and rivals take turns, so that a busy machine harms them alike.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwater.separation.codec import Decoder
from headwater.separation.convtasnet import ConvTasNet
from headwater.separation.depthwise import Depthwise
from headwater.separation.losses import EPS, assign, chosen, pit
from headwater.separation.settings import ConvTasNetConfig
from headwater.speed.machine import describe, threads

RATE = 8000
TRIED = 5  # speakers of whom the rival tries all orders
PAPER = {"N": 512, "L": 16, "B": 128, "H": 512, "Sc": 128, "P": 3, "X": 8, "R": 3}
SMALL = {**PAPER, "L": 40, "H": 256, "X": 7, "R": 2}


def written_out(estimates: Tensor, sources: Tensor) -> Tensor:
    """(B,): minus the SI-SNR of the best order."""
    e = (estimates - estimates.mean(2, keepdim=True))[:, :, None]
    s = (sources - sources.mean(2, keepdim=True))[:, None]
    target = (e * s).sum(3, keepdim=True) / (s.square().sum(3, keepdim=True) + EPS) * s
    noise = e - target
    pairs = -10 * torch.log10(target.square().sum(3) / (noise.square().sum(3) + EPS) + EPS)
    speakers = range(estimates.shape[1])
    if len(speakers) > TRIED:
        return chosen(pairs, assign(pairs)).mean(1)
    orders = [torch.stack([pairs[:, i, j] for j, i in enumerate(order)]).mean(0) for order in permutations(speakers)]
    return torch.stack(orders).amin(0)


def by_matrix(estimates: Tensor, sources: Tensor) -> Tensor:
    return pit(estimates, sources).loss


WAYS = {"naive": written_out, "matrix": by_matrix}


def gradient(way: str, estimates: Tensor, sources: Tensor) -> Tensor:
    return torch.autograd.grad(WAYS[way](estimates, sources).mean(), estimates)[0]


def best(calls: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Seconds of the fastest of `repeats` calls of each, in turns, after one that does not count."""
    found = dict.fromkeys(calls, float("inf"))
    for turn in range(repeats + 1):
        for name, call in calls.items():
            synchronise(device)
            started = time.perf_counter()
            call()
            synchronise(device)
            if turn:
                found[name] = min(found[name], time.perf_counter() - started)
    return found


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def losses(args: argparse.Namespace, device: torch.device) -> None:
    print(f"\nSI-SNR of the best order and its gradient, {args.batch} mixtures of {args.seconds} s at {RATE} Hz\n")
    print("| speakers | written out, ms | one matrix, ms | ratio | largest difference, dB |\n|-|-|-|-|-|")
    generator = torch.Generator().manual_seed(0)
    for speakers in args.speakers:
        shape = (args.batch, speakers, args.seconds * RATE)
        sources = torch.randn(shape, generator=generator).to(device)
        estimates = (sources.roll(1, 1) + torch.randn(shape, generator=generator).to(device)).requires_grad_()
        values = {way: loss(estimates, sources).detach() for way, loss in WAYS.items()}
        difference = float((values["naive"] - values["matrix"]).abs().max())
        took = best({way: partial(gradient, way, estimates, sources) for way in WAYS}, args.repeats, device)
        print(
            f"| {speakers} | {1e3 * took['naive']:.1f} | {1e3 * took['matrix']:.1f} | {took['naive'] / took['matrix']:.1f} | {difference:.1e} |",
            flush=True,
        )


def parts(args: argparse.Namespace, device: torch.device) -> None:
    """What the network is made of, against torch's own, forwards and backwards."""
    print(f"\nParts, {args.batch} x 512 x 2000 frames\n\n| part | ours, ms | torch's, ms | another, ms |\n|-|-|-|-|")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(args.batch, 512, 2000, generator=generator).to(device).requires_grad_()
    narrow = nn.Conv1d(512, 128, 1).to(device)
    rows, laid = narrow.weight[:, :, 0], x.detach().transpose(1, 2).contiguous().requires_grad_()
    decoder = Decoder(ConvTasNetConfig()).to(device)
    frames = decoder.framing.samples(2000)
    table: dict[str, dict[str, Callable[[], Tensor]]] = {
        "1x1 to 128 (matmul; channels last)": {
            "ours": lambda: narrow(x),
            "torch": lambda: rows @ x,
            "other": lambda: functional.linear(laid, rows, narrow.bias),
        },
        "decoder": {"ours": lambda: decoder(x, None, frames), "torch": lambda: decoder.conv(x)},
    }
    for dilation in (1, 128):
        layer = Depthwise(512, 3, dilation, causal=False, bias=True).to(device)
        own = partial(functional.conv1d, x, layer.weight, layer.bias, 1, dilation, dilation, 512)
        table[f"depthwise, dilation {dilation}"] = {"ours": partial(layer, x), "torch": own}
    for name, ways in table.items():
        took = best({way: partial(both_ways, call) for way, call in ways.items()}, args.repeats, device)
        print(
            f"| {name} | {' | '.join(f'{1e3 * took[way]:.1f}' if way in took else '' for way in ('ours', 'torch', 'other'))} |"
        )


def both_ways(call: Callable[[], Tensor]) -> None:
    call().sum().backward()  # type: ignore[no-untyped-call]


def rivals(norm: str, causal: bool, sizes: dict[str, int]) -> dict[str, nn.Module]:
    """Ours and, where it can be imported, asteroid's model of the same settings."""
    made: dict[str, nn.Module] = {
        "headwater": ConvTasNet(ConvTasNetConfig.model_validate({**sizes, "norm": norm, "causal": causal}))
    }
    try:
        from asteroid.models import ConvTasNet as Asteroid
    except Exception as error:
        print(f"asteroid is left out: {type(error).__name__}: {error}")
        return made
    made["asteroid"] = Asteroid(
        2,
        n_filters=sizes["N"],
        kernel_size=sizes["L"],
        stride=sizes["L"] // 2,
        bn_chan=sizes["B"],
        hid_chan=sizes["H"],
        skip_chan=sizes["Sc"],
        conv_kernel_size=sizes["P"],
        n_blocks=sizes["X"],
        n_repeats=sizes["R"],
        norm_type="cgLN" if norm == "cumulative" else norm,
        causal=causal,
    )
    return made


def train(model: nn.Module, optimiser: torch.optim.Optimizer, sources: Tensor) -> None:
    optimiser.zero_grad()
    pit(model(sources.sum(1)), sources).loss.mean().backward()
    optimiser.step()


@torch.no_grad()
def infer(model: nn.Module, sources: Tensor) -> None:
    model(sources[:1].sum(1))


def networks(args: argparse.Namespace, device: torch.device) -> None:
    sizes = SMALL if args.small else PAPER
    print(
        f"\nConv-TasNet {' '.join(f'{key}{value}' for key, value in sizes.items())}; training on {args.batch} x {args.seconds} s\n"
    )
    print("| norm | of | steps a second | real-time factor |\n|-|-|-|-|")
    generator = torch.Generator().manual_seed(0)
    sources = 0.1 * torch.randn(args.batch, 2, args.seconds * RATE, generator=generator).to(device)
    for norm, causal in (("gLN", False), ("cumulative", True)):
        models = {name: model.to(device) for name, model in rivals(norm, causal, sizes).items()}
        optimisers = {name: torch.optim.Adam(model.parameters(), fused=True) for name, model in models.items()}

        trained = best(
            {name: partial(train, model, optimisers[name], sources) for name, model in models.items()},
            args.repeats,
            device,
        )
        used = best({name: partial(infer, model, sources) for name, model in models.items()}, args.repeats, device)
        for name in models:
            print(f"| {norm} | {name} | {1 / trained[name]:.3f} | {used[name] / args.seconds:.4f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Separation's losses and Conv-TasNet.")
    parser.add_argument("--speakers", type=int, nargs="+", default=[2, 3, 5, 10])
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # asteroid's, of its dependencies
    print(describe(args.threads) if args.device.type == "cpu" else torch.cuda.get_device_name(args.device))
    with threads(args.threads):
        losses(args, args.device)
        parts(args, args.device)
        networks(args, args.device)


if __name__ == "__main__":
    main()
