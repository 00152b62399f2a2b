"""Pretraining: steps a second and memory, with features and masks made in batch on the training device or by a loader.

    OMP_WAIT_POLICY=PASSIVE python bench/pretrain.py [-u tera] [-c base_960hr] [--steps 40] [--repetitions 3] [--workers 0] [-o KEY=VALUE]

Both train the same model on the same synthetic speech-like noise, held in memory, in the same batches:

- ours: crops go to the device; there, level and features and masks are made for the whole batch (`headwater.train.pretraining`).
- loader: utterance by utterance on the CPU, as S3PRL does: features of one crop, masks of one utterance drawn with Python's
  `random`, then padding, then the device; in `--workers` processes ahead of training, or in the training process (0).

Each measurement has a process of its own, which warms up first; repetitions are paired, and the ratio is the median of the pairs.
Peak memory is that of the process (VmHWM; without the loader's workers), and on a GPU that of torch's allocator as well.

Model FLOPs utilisation: 3 x (2 x M x frames + 4 x layers x hidden x sum of squared lengths) a step, over time and the peak for dense
matrices in the precision of the run: the one that the maker of a GPU states, the one that is measured on a CPU. M counts the weights of all
matrices, those of shared layers as often as they are used; the backward pass costs twice the forward pass. Features, masks, norms and
padding count for nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from headwater.audio.frontends import normalise_level
from headwater.cli.pretrain import parser as pretrain_parser
from headwater.cli.pretrain import settings_of
from headwater.config import PretrainConfig
from headwater.data.batching import plan_epoch
from headwater.data.corpus import Utterance
from headwater.mam.masking import NOISE_STD, REPLACED, ZEROED, Masking
from headwater.mam.objective import MaskedReconstruction
from headwater.registry import objectives
from headwater.settings import validate
from headwater.speed.machine import limits, matmul_peak, peak_memory
from headwater.train.distributed import World
from headwater.train.loop import autocast
from headwater.train.optim import build_optimizer
from headwater.train.pretrain import crop_of
from headwater.train.pretraining import Piece, Pretraining, Source
from headwater.train.work import Portion

# Dense FLOPs a second that the makers state, by what the device is called and the precision of the run.
PEAK = {("H100", "bf16"): 989e12, ("H200", "bf16"): 989e12, ("H100", "fp32"): 67e12, ("H200", "fp32"): 67e12}
WARM_UP = 3


def speech(count: int, rate: int) -> list[Tensor]:
    """Noise of speech-like level under a slow envelope, 4 to 16 s each."""
    generator = torch.Generator().manual_seed(0)
    wavs = []
    for _ in range(count):
        size = int(torch.randint(4 * rate, 16 * rate, (), generator=generator))
        envelope = 0.55 + 0.45 * torch.sin(torch.arange(size) * (2 * torch.pi * 3 / rate))
        wavs.append(0.1 * envelope * torch.randn(size, generator=generator))
    return wavs


def masked_alone(x: Tensor, policy: Masking, noisy: bool, out_dim: int) -> tuple[Tensor, Tensor]:
    """One utterance (T, D) altered, and what is to be reconstructed of its target (T, out_dim), span by span."""
    size, dim = x.shape
    altered, labels = x.clone(), torch.zeros(size, out_dim, dtype=torch.bool)
    span = random.randint(*policy.span)
    last = max(size - span - 1, 0)
    count = round(size * policy.proportion / span)
    starts = random.sample(range(last + 1), min(count, last + 1))
    others = random.sample(range(last + 1), len(starts))
    dice = random.random()
    for start, other in zip(starts, others, strict=True):
        labels[start : start + span] = True
        if dice < ZEROED:
            altered[start : start + span] = 0
        elif dice < REPLACED:
            altered[start : start + span] = x[other : other + span]
    width = random.randint(0, policy.band)
    low = random.randint(0, dim - width - 1)
    altered[:, low : low + width] = 0
    labels[:, low : low + width] = True
    return altered + NOISE_STD * torch.randn_like(x) if noisy else altered, labels


class Alone(torch.utils.data.Dataset[tuple[Tensor, ...]]):
    """Batches by number, made utterance by utterance."""

    def __init__(
        self, wavs: list[Tensor], objective: MaskedReconstruction, crop: int | None, batches: Sequence[np.ndarray]
    ) -> None:
        self.wavs, self.objective, self.crop, self.batches = wavs, objective, crop, batches

    def __len__(self) -> int:
        return len(self.batches)

    @torch.no_grad()
    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        assert self.objective.input is not None
        noisy = random.random() < self.objective.policy.noise
        inputs, targets, labels = [], [], []
        for index in self.batches[number]:
            wav = self.wavs[index]
            wav = wav if self.objective.level is None else normalise_level(wav, self.objective.level)
            if self.crop is not None and len(wav) > self.crop:
                start = random.randint(0, len(wav) - self.crop)
                wav = wav[start : start + self.crop]
            x, target, _ = self.objective._frames([wav])
            altered, label = masked_alone(x[0], self.objective.policy, noisy, target.shape[2])
            inputs.append(altered)
            targets.append(target[0])
            labels.append(label)
        lengths = torch.tensor([len(x) for x in inputs])
        pad = torch.nn.utils.rnn.pad_sequence
        return pad(inputs, True), pad(targets, True), pad(labels, True), lengths


def steps_of(args: argparse.Namespace, ours: bool) -> dict[str, float]:
    """Train `--steps` steps after a warm-up; steps a second, peak memory in MiB, and on a known GPU the share of its peak."""
    words = ["-u", args.upstream, *(["-c", args.config] if args.config else [])]
    words += [word for one in args.override for word in ("-o", one)]
    config = validate(PretrainConfig, settings_of(pretrain_parser().parse_args(words))[0])
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(0)
    random.seed(0)
    expert = objectives[config.objective].load()
    objective = expert(validate(expert.Config, config.model, "model"))
    assert isinstance(objective, MaskedReconstruction)
    crop = crop_of(config, objective)
    wavs = speech(args.utterances, objective.sample_rate)
    pieces = [Piece(Utterance(str(n), Path(str(n))), len(wav)) for n, wav in enumerate(wavs)]
    source = Source(lambda piece: wavs[int(piece.utterance.id)], objective.level, float("inf"))
    loader_side = expert(validate(expert.Config, config.model, "model"))
    work = Pretraining(
        objective.to(device),
        source,
        pieces,
        [],
        config,
        crop=crop,
        rate=float(objective.sample_rate),
        world=World(device),
        device=device,
    )
    plans = (
        plan_epoch(work.durations, size=config.batch.size, max_seconds=config.batch.seconds, seed=0, epoch=epoch)
        for epoch in itertools.count()
    )
    batches = list(itertools.islice(itertools.chain.from_iterable(plans), WARM_UP + args.steps))
    optimizer = build_optimizer(work.parameter_groups(), config.optimizer)

    def losses() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(sum, count, lengths) of every batch."""
        if ours:
            portions = [Portion(0, number, batch, 0, 1) for number, batch in enumerate(batches)]
            for ready in work.ready(portions):
                with autocast(config, device):
                    yield *work.loss(objective, ready), ready.share.lengths
            return
        loader = DataLoader(
            Alone(wavs, loader_side, crop, batches),
            batch_size=None,
            num_workers=args.workers,
            multiprocessing_context="fork" if args.workers else None,
        )
        for parts in loader:
            altered, target, labels, lengths = (part.to(device) for part in parts)
            with autocast(config, device):
                found = objective.head(objective.transformer.last(altered, lengths)).float()
                distance = objective.distance(found, target, reduction="none") * labels
            yield distance.sum(), labels.sum(), lengths

    flops, begun = 0.0, 0.0
    for number, (total, count, lengths) in enumerate(losses()):
        if number == WARM_UP:
            if device.type == "cuda":
                torch.cuda.synchronize()
            begun = time.perf_counter()
        (total / count.clamp(min=1)).backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), config.runner.gradient_clipping)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if number >= WARM_UP:
            flops += flops_of(objective, lengths.tolist())
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    found = {"steps_per_s": args.steps / seconds, "rss_mib": peak_memory() / 2**20}
    if device.type == "cpu":
        dtype = "bfloat16" if config.runner.precision == "bf16" else "float32"
        found["mfu"] = flops / seconds / matmul_peak(dtype, torch.get_num_threads())
    if device.type == "cuda":
        found["cuda_mib"] = torch.cuda.max_memory_allocated() / 2**20
        name = torch.cuda.get_device_name()
        peak = next((p for (kind, how), p in PEAK.items() if kind in name and how == config.runner.precision), None)
        if peak:
            found["mfu"] = flops / seconds / peak
    return found


def flops_of(objective: MaskedReconstruction, lengths: Sequence[int]) -> float:
    """Of one step; the formula stands at the top."""
    chosen = objective.config.transformer
    matrices = {name: p.numel() for name, p in objective.named_parameters() if p.dim() == 2}
    uses = chosen.num_hidden_layers if chosen.share_layer else 1
    weights = sum(count * (uses if ".layers." in name else 1) for name, count in matrices.items())
    attention = 4 * chosen.num_hidden_layers * chosen.hidden_size * sum(length**2 for length in lengths)
    return 3.0 * (2 * weights * sum(lengths) + attention)


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of pretraining.")
    parser.add_argument("-u", "--upstream", default="tera")
    parser.add_argument("-c", "--config", help="a recipe of config/pretrain; the card's small model when not given")
    parser.add_argument("-o", "--override", action="append", default=[])
    parser.add_argument("--device")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--workers", type=int, default=0, help="processes of the loader")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--child", choices=("ours", "loader"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(steps_of(args, args.child == "ours")))
        return
    found: dict[str, list[dict[str, Any]]] = {"loader": [], "ours": []}
    for _ in range(args.repetitions):
        for way, results in found.items():
            command = [sys.executable, __file__, "--child", way, *sys.argv[1:]]
            results.append(json.loads(subprocess.check_output(command, text=True).splitlines()[-1]))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and args.device != "cpu" else "CPU"
    machine = limits(torch.get_num_threads()) if device == "CPU" else f"{device}, torch {torch.__version__}"
    print(f"{machine}; {args.workers} loader process(es)")
    print(f"{args.upstream} {args.config or '(the small model of its card)'}, {args.steps} steps a measurement")
    for way, results in found.items():
        middle = {key: statistics.median(one[key] for one in results) for key in results[0]}
        gpu = f", GPU {middle['cuda_mib']:.0f} MiB" if "cuda_mib" in middle else ""
        share = f", {100 * middle['mfu']:.1f} % of peak FLOPs" if "mfu" in middle else ""
        print(f"{way:<7} {middle['steps_per_s']:.2f} steps/s, process {middle['rss_mib']:.0f} MiB{gpu}{share}")
    ratios = sorted(
        ours["steps_per_s"] / loader["steps_per_s"] for ours, loader in zip(found["ours"], found["loader"], strict=True)
    )
    print(f"ratio {statistics.median(ratios):.2f} (median of {len(ratios)} pairs; {ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
