"""`headwater bench NAME`: how fast an upstream is on this machine, and what it takes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.cli import flags
from headwater.cli.shell import say
from headwater.errors import UsageError
from headwater.registry import add_plugin
from headwater.settings import flatten, merge, parse_overrides, read_yaml

if TYPE_CHECKING:
    from torch import Tensor

EPILOG = """examples:
  headwater bench fbank
  headwater bench tera -o upstream.config.random_weights=0     the official size without its weights
  headwater bench hubert --extract-dtype bfloat16 --json hubert.json
Speech is that of the demo corpus, held in memory. bench/README.md explains how to read the figures."""
OWN = "upstream.config."


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="headwater bench",
        description="Measure an upstream on this machine: speed against real time and against the machine's peak, memory, and bytes of its features.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = top.add_argument
    add("name", metavar="NAME", help="an upstream; ckpt:PATH is one that you pretrained")
    flags.model_flags(top)
    flags.override_flag(top)
    flags.plugin_flag(top, "an upstream")
    flags.device_flag(top)
    add("--seconds", type=float, default=5.0, metavar="S", help="so long is measured, about (default: 5)")
    flags.extract_dtype_flag(top, "what the encoder computes in", default="float32")
    add("--json", metavar="FILE", type=Path, help="write the figures there, too")
    return top


def main(arguments: Sequence[str]) -> int:
    """Load, measure, say."""
    args = parser().parse_args(list(arguments))
    if not args.seconds > 0:
        raise UsageError(f"--seconds {args.seconds:g}: more than 0 is needed")
    overrides = parse_overrides(args.override)
    if wrong := next((key for key in flatten(overrides) if not key.startswith(OWN)), None):
        raise UsageError(f"-o {wrong}: only settings of the upstream ({OWN}KEY=VALUE) have a meaning here")
    for plugin in args.plugin:
        add_plugin(plugin)
    config = read_yaml(args.upstream_model_config) if args.upstream_model_config else {}
    from headwater.loading import load_upstream
    from headwater.results.files import write_json
    from headwater.speed.upstream import measure
    from headwater.train.distributed import local_device

    device = local_device(args.device)
    settings = merge(config, overrides.get("upstream", {}).get("config", {}))
    upstream = load_upstream(args.name, ckpt=args.upstream_ckpt, config=settings, device=str(device))
    upstream.take_features(None)
    found = measure(
        upstream, speech(upstream.sample_rate), device=device, dtype=args.extract_dtype, seconds=args.seconds
    )
    for line in found.lines():
        say(line)
    if args.json is not None:
        write_json(args.json, found.to_json())
    return 0


def speech(rate: int) -> list[Tensor]:
    """The demo corpus in memory, in the order of its files."""
    from headwater.audio import read
    from headwater.data.demo import demo_corpus

    files = sorted(utterance.path for utterance in demo_corpus().utterances)
    return [read(file, sample_rate=rate, resample=True) for file in files]
