"""What a large corpus takes: bytes by layers and dtype, shards, and hours from measured speed.

    python bench/scale.py [--hours 60000] [--seconds 15] [--upstreams tera hubert]
    python bench/extraction.py | tee extraction.txt; python bench/scale.py --from extraction.txt [--workers 64] [--price 0.04]

Bytes are computed from the models' own layers and frames (random weights; nothing is downloaded). Hours are hours of audio divided by what bench/extraction.py
measured, for so many workers as fast as the one it ran; a worker is all the threads of that run. The price is that of a worker for an hour.
"""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

import headwater
from headwater.config import ShardConfig
from headwater.nn.upstream import Upstream
from headwater.store.plan import WIDTHS, bytes_of

LIBRILIGHT = 60000  # hours
SHARD = {"frames": (1024.0, 36000.0), "means": (64.0, 360000.0)}  # MiB, seconds: -o shard.mib, shard.seconds


def in_words(count: float) -> str:
    """Bytes in words, up to a thousand TB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 100 * size else f"{count / size:.0f} {unit}"
    return f"{count / 1e6:.0f} MB"


def shards(count: float, hours: float, mib: float, seconds: float) -> int:
    return math.ceil(max(count / (mib * 2**20), hours * 3600 / seconds))


def rows(upstream: Upstream, hours: float, seconds: float) -> list[str]:
    """A line for every choice of layers, dtype and form."""
    utterances = round(hours * 3600 / seconds)
    frames = utterances * upstream.frames(round(seconds * upstream.sample_rate))
    default = ShardConfig()
    found = []
    for what, layers in (
        ("all", range(upstream.num_layers)),
        ("one", range(upstream.num_layers - 1, upstream.num_layers)),
    ):
        for form, count in (("frames", frames), ("means", utterances)):
            for dtype in WIDTHS:
                size = bytes_of(upstream, list(layers), count, dtype)
                few, many = shards(size, hours, *SHARD[form]), shards(size, hours, default.mib, default.seconds)
                found.append(f"{what:<4} {len(layers):>3} {form:<7} {dtype:<8} {in_words(size):>9} {few:>9} {many:>9}")
    return found


def speeds(text: str) -> list[tuple[str, str, float]]:
    """(model, dtype, seconds of audio a second) of our own extraction, from what bench/extraction.py printed."""
    found, model = [], ""
    for line in text.splitlines():
        if named := re.match(r"(\w+), [\d.]+ M parameters", line):
            model = named[1]
        elif said := re.match(r"by length +ours +(\w+) +([\d.]+) \[", line):
            found.append((model, said[1], float(said[2])))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What a large corpus takes.")
    parser.add_argument("--hours", type=float, default=LIBRILIGHT, help="of audio")
    parser.add_argument("--seconds", type=float, default=15.0, help="of an utterance")
    parser.add_argument("--upstreams", nargs="*", default=["tera", "hubert"])
    parser.add_argument("--from", dest="measured", type=Path, help="what bench/extraction.py printed")
    parser.add_argument("--speed", type=float, help="seconds of audio a second of one worker, in the place of --from")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--price", type=float, help="of a worker for an hour")
    args = parser.parse_args()
    print(f"{args.hours:g} h of audio in utterances of {args.seconds:g} s")
    for name in args.upstreams:
        upstream = headwater.load(name, config={"random_weights": 0})
        pace = upstream.sample_rate / upstream.stride
        print(f"\n{name}: {upstream.num_layers} layers of {upstream.out_dim} dims, {pace:g} frames a second")
        print(f"{'layers':<8} {'form':<7} {'dtype':<8} {'bytes':>9} {'shards':>9} {'default':>9}")
        print("\n".join(rows(upstream, args.hours, args.seconds)))
    found = speeds(args.measured.read_text()) if args.measured else []
    found += [("", "", args.speed)] if args.speed else []
    for model, dtype, speed in found:
        for workers in args.workers:
            hours = args.hours / speed
            cost = f", {hours * args.price:.0f} at {args.price:g} an hour" if args.price is not None else ""
            said = f"{model} {dtype}".strip()
            print(
                f"{said or 'given'}: {speed:g} audio s/s; {hours:.0f} worker hours, {hours / workers / 24:.1f} days on {workers} worker(s){cost}"
            )


if __name__ == "__main__":
    main()
