"""Extraction: hidden states of real speech, ours against a padded batch of 8 of the same model, and against what the machine can do.

    OMP_WAIT_POLICY=PASSIVE python bench/extraction.py [--quick] [--data ../shared/data] [--models tera hubert wav2vec2] [--threads 2] [--clips 48]

- padded: the rival. Utterances in batches of 8, padded to the longest, float32, all threads at one batch, torch's plain layers with explicit attention over
  all frames, as S3PRL runs an upstream. Of TERA base it is written out below; of HuBERT and wav2vec 2.0 base it is transformers' own (`eager`). The weights
  are the same.
- alone: our upstream's layers (torch's fused attention), one utterance after the other, all threads at one.
- ours: `headwater.store.compute.Extractor`, as every run uses it: float32, and bfloat16 where the CPU has it.

All models have random weights; their size is that of the published ones. Clips are decoded beforehand, and are the same in each run: files of LibriSpeech's
tree at equal distances, or of the demo corpus where there is no such data; in the order of files, and sorted by length. Repetitions are interleaved: one of
each way, and the machine's peaks, in turn. A ratio is the median of the pairs of one repetition, in brackets the least and the greatest. The share of the
peak is that of matrix products of the same dtype (`headwater.speed.machine`), taken by the operations that the utterances need unpadded.

Outputs are compared first: ours with the rival's for the same utterance unpadded, on every frame, relative to the RMS of the layer; and what padding changes
in the rival's own is printed beside it (the first norm of HuBERT and wav2vec 2.0 runs over time, so there it is much).

Memory is what a process takes at its peak beyond what it had when model and clips were loaded; one process for each way, in the order of files (Linux).
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import headwater
from headwater.audio.io import read
from headwater.data.demo import demo_corpus
from headwater.errors import UsageError
from headwater.nn.packed import require_bfloat16
from headwater.nn.transformer import TransformerLayer
from headwater.nn.upstream import Upstream
from headwater.speed.machine import (
    Clock,
    bandwidth,
    count_flops,
    describe,
    forget_peak_memory,
    matmul_peak,
    peak_memory,
    threads,
)
from headwater.store.compute import Extractor
from headwater.store.features import FrozenFeatures
from headwater.store.quality import relative_error

BATCH = 8
TOLERANCE = 1e-4
MODELS = ("tera", "hubert", "wav2vec2")
RATE = 16000
SHARED = Path(__file__).resolve().parents[2] / "shared/data"
States = list[Tensor]  # of one utterance, (T, D) a layer
Rival = Callable[[Sequence[Tensor]], list[States]]
Way = Callable[[Sequence["Clip"]], Iterable[States]]


@dataclass(frozen=True)
class Clip:
    id: str
    wav: Tensor


@torch.no_grad()
def padded_waveform(model: nn.Module, wavs: Sequence[Tensor]) -> list[States]:
    counts = torch.tensor([len(wav) for wav in wavs])
    x = nn.utils.rnn.pad_sequence(list(wavs), batch_first=True)
    valid = torch.arange(x.shape[1])[None] < counts[:, None]
    found = model(x, attention_mask=valid.long(), output_hidden_states=True).hidden_states
    lengths = model._get_feat_extract_output_lengths(counts).tolist()
    return [[state[row, :length] for state in found] for row, length in enumerate(lengths)]


class PaddedTera(nn.Module):
    """The BERT of TERA base over padded frames, in S3PRL's form: queries, keys and values by layers of their own, attention written out, a mask of -10000."""

    def __init__(self, upstream: Any) -> None:
        super().__init__()
        self.upstream, self.transformer = upstream, upstream.transformer
        self.qkv = nn.ModuleList(
            nn.ModuleList(_linear(weight, bias) for weight, bias in zip(one.qkv.weight.chunk(3), one.qkv.bias.chunk(3)))
            for one in (self.transformer.layer(number).attention for number in range(self.transformer.depth))
        )

    @torch.no_grad()
    def forward(self, wavs: Sequence[Tensor]) -> list[States]:
        x, lengths = self.upstream.inputs(wavs)
        positions = _sinusoids(x.shape[1], self.transformer.projection.out_features)
        h = self.transformer.input_norm(self.transformer.projection(x) + positions)
        hidden = (torch.arange(x.shape[1])[None] >= lengths[:, None])[:, None, None] * -10000.0
        states = [h]
        for number in range(self.transformer.depth):
            states.append(self._layer(self.transformer.layer(number), self.qkv[number], states[-1], hidden))
        return [[state[row, :length] for state in states] for row, length in enumerate(lengths.tolist())]

    def _layer(self, layer: TransformerLayer, qkv: Any, h: Tensor, hidden: Tensor) -> Tensor:
        heads = layer.attention.heads
        q, k, v = (one(h).unflatten(-1, (heads, -1)).transpose(1, 2) for one in qkv)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + hidden).softmax(-1)
        a = layer.attention_norm(layer.attention.output((weights @ v).transpose(1, 2).flatten(2)) + h)
        return layer.output_norm(layer.down(functional.gelu(layer.up(a))) + a)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
    return layer


def _sinusoids(length: int, dim: int) -> Tensor:
    j = torch.arange(dim, dtype=torch.float64)
    angle = torch.arange(length, dtype=torch.float64)[:, None] / 10000 ** (2 * (j // 2) / dim)
    return torch.where(j % 2 == 0, angle.sin(), angle.cos()).float()


def models(name: str) -> tuple[Upstream, Rival]:
    """The upstream and its rival."""
    if name == "tera":
        upstream = headwater.load("tera", config={"random_weights": 0, "sequence_length": 0})
        return upstream, PaddedTera(upstream).eval()
    upstream = headwater.load(name, config={"random_weights": 0})
    eager = copy.deepcopy(upstream.model)
    eager.set_attn_implementation("eager")
    return upstream, lambda wavs: padded_waveform(eager, wavs)


def clips_of(data: Path, count: int) -> tuple[str, list[Clip]]:
    files = sorted((data / "LibriSpeech").rglob("*.flac"))
    source = "LibriSpeech"
    if not files:
        source = f"the demo corpus ({data} has no LibriSpeech)"
        files = sorted(utterance.path for utterance in demo_corpus().utterances)
    chosen = [files[number * len(files) // count] for number in range(min(count, len(files)))]
    return source, [Clip(file.stem, torch.as_tensor(read(file, sample_rate=RATE))) for file in chosen]


def batches(clips: Sequence[Clip]) -> Iterator[list[Tensor]]:
    for first in range(0, len(clips), BATCH):
        yield [clip.wav for clip in clips[first : first + BATCH]]


def seconds(call: Callable[[], object], count: int, clock: Clock = time.perf_counter) -> float:
    with threads(count):
        begun = clock()
        call()
        return clock() - begun


def difference(one: Sequence[States], two: Sequence[States]) -> float:
    """The largest over layers of: the largest difference over the RMS of the layer."""
    found = []
    for ours, theirs in zip(zip(*one, strict=True), zip(*two, strict=True), strict=True):
        a, b = torch.cat(ours), torch.cat(theirs)
        found.append(float((a - b).abs().max() / b.square().mean().sqrt()))
    return max(found)


def middle(values: Sequence[float], form: str = ".1f") -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def ways_of(upstream: Upstream, rival: Rival, dtypes: Sequence[str], workers: int) -> dict[tuple[str, str], Way]:
    """Way and dtype -> clips to their states; what a caller does not keep is dropped."""

    def padded(clips: Sequence[Clip]) -> Iterator[States]:
        for batch in batches(clips):
            yield from rival(batch)

    @torch.no_grad()
    def alone(clips: Sequence[Clip]) -> Iterator[States]:
        for clip in clips:
            yield [state[0] for state in upstream.extract([clip.wav]).hidden_states]

    def ours(dtype: str, clips: Sequence[Clip]) -> Iterator[States]:
        extractor: Extractor[Clip] = Extractor(
            upstream, range(upstream.num_layers), lambda clip: clip.wav, dtype=dtype, workers=workers
        )
        for rows in extractor([[clip] for clip in clips]):
            yield from map(list, rows)

    return {
        ("padded", "float32"): padded,
        ("alone", "float32"): alone,
        **{("ours", dtype): partial(ours, dtype) for dtype in dtypes},
    }


def drop(states: Iterable[States]) -> None:
    for _ in states:
        pass


def growth(name: str, way: str, dtype: str, args: argparse.Namespace) -> float:
    """MiB of one way in a process of its own."""
    asked = [sys.executable, __file__, "--memory", name, way, dtype, "--threads", str(args.threads)]
    asked += ["--clips", str(args.clips), "--data", str(args.data)]
    return float(subprocess.run(asked, stdout=subprocess.PIPE, check=True, text=True).stdout)


def own_growth(name: str, way: str, dtype: str, args: argparse.Namespace) -> float:
    """MiB of this process beyond what it has with model and clips."""
    _, clips = clips_of(args.data, args.clips)
    call = ways_of(*models(name), [dtype], args.threads)[way, dtype]
    forget_peak_memory()
    before = peak_memory()
    with threads(args.threads):
        drop(call(clips))
    return (peak_memory() - before) / 2**20


def measure(name: str, clips: Sequence[Clip], args: argparse.Namespace, dtypes: Sequence[str]) -> bool:
    """Print the table of one model; whether outputs are equal."""
    upstream, rival = models(name)
    ways = ways_of(upstream, rival, dtypes, args.threads)
    orders = {"file order": list(clips), "by length": sorted(clips, key=lambda clip: len(clip.wav))}
    layers = range(upstream.num_layers)
    audio = sum(len(clip.wav) for clip in clips) / RATE

    few = orders["by length"][:: max(1, len(clips) // 12)]
    wavs = [clip.wav for clip in few]
    single = [states for wav in wavs for states in rival([wav])]
    found, padded = (difference(states, single) for states in (list(ways["ours", "float32"](few)), rival(wavs)))
    with torch.no_grad():
        flops = sum(count_flops(lambda clip=clip: upstream.extract([clip.wav])) for clip in clips)  # type: ignore[misc]
    parameters = sum(p.numel() for p in upstream.parameters())
    print(
        f"\n{name}, {parameters / 1e6:.1f} M parameters, {len(clips)} clips, {audio:.0f} s, {flops / audio / 1e9:.2f} GFLOP a second of audio"
    )
    verdict = "equal" if found <= TOLERANCE else "NOT EQUAL"
    print(
        f"float32 against the rival: {verdict}, {found:.1e} (allowed {TOLERANCE:.0e}); in a padded batch the rival itself changes by {padded:.1e}"
    )
    for dtype in dtypes[1:]:
        frozen: FrozenFeatures[Clip] = FrozenFeatures(upstream, layers, lambda clip: clip.wav, extract_dtype=dtype)
        errors = relative_error(frozen, few) or []
        print(f"{dtype}: relative RMS error a layer {', '.join(f'{100 * one:.2f}' for one in errors)} %")

    took: dict[tuple[str, str, str], list[float]] = {}
    peaks: dict[str, list[float]] = {dtype: [] for dtype in dtypes}
    for call in ways.values():
        seconds(lambda call=call: drop(call(clips[:BATCH])), args.threads)  # type: ignore[misc]
    for _ in range(args.repetitions):
        for dtype in dtypes:
            peaks[dtype].append(matmul_peak(dtype, args.threads, 1.0, args.clock))
        for order, chosen in orders.items():
            for (way, dtype), call in ways.items():
                took.setdefault((order, way, dtype), []).append(
                    seconds(lambda call=call, chosen=chosen: drop(call(chosen)), args.threads, args.clock)  # type: ignore[misc]
                )
    print(f"{'order':<11}{'way':<8}{'dtype':<10}{'audio s/s':<21}{'times padded':<20}share of peak (%)")
    for (order, way, dtype), times in took.items():
        ratios = [theirs / mine for theirs, mine in zip(took[order, "padded", "float32"], times)]
        shares = [100 * flops / one / peak for one, peak in zip(times, peaks[dtype])]
        speed = middle([audio / one for one in times])
        print(f"{order:<11}{way:<8}{dtype:<10}{speed:<21}{middle(ratios, '.2f'):<20}{middle(shares, '.0f')}")
    for dtype in dtypes:
        print(
            f"peak {dtype} {middle([peak / 1e9 for peak in peaks[dtype]], '.0f')} GFLOP/s, "
            f"which would allow {statistics.median(peaks[dtype]) / flops * audio:.0f} audio s/s"
        )
    taken = [f"{way} {dtype} {growth(name, way, dtype, args):.0f}" for way, dtype in ways]
    print(f"memory beyond model and clips, MiB: {', '.join(taken)}")
    return found <= TOLERANCE


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of extraction.")
    parser.add_argument("--data", type=Path, default=SHARED, help="a folder with LibriSpeech/; else the demo corpus")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clips", type=int)
    parser.add_argument("--repetitions", type=int)
    parser.add_argument("--quick", action="store_true", help="16 clips, 2 repetitions")
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine: processor time; one thread")
    parser.add_argument("--memory", nargs=3, metavar=("MODEL", "WAY", "DTYPE"), help="only print the memory of one way")
    args = parser.parse_args()
    if args.cpu_time and args.threads != 1:
        parser.error("--cpu-time goes with --threads 1")
    args.clock = time.process_time if args.cpu_time else time.perf_counter
    args.clips = args.clips or (16 if args.quick else 48)
    args.repetitions = args.repetitions or (2 if args.quick else 5)
    if args.memory:
        print(own_growth(*args.memory, args))
        return
    dtypes = ["float32"]
    try:
        require_bfloat16(torch.device("cpu"))
        dtypes.append("bfloat16")
    except UsageError as error:
        print(error)
    source, clips = clips_of(args.data, args.clips)
    print(
        f"{describe(args.threads)}, memory {bandwidth(args.threads) / 1e9:.1f} GB/s; {source}; {'processor time' if args.cpu_time else 'wall time'}"
    )
    verdicts = [measure(name, clips, args, dtypes) for name in args.models]
    if not all(verdicts):
        sys.exit("outputs differ")


if __name__ == "__main__":
    main()
