"""`headwater extract`: features of a corpus into the store, or into plain files, by any number of processes and machines."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headwater.cli import flags
from headwater.cli.names import on_the_demo
from headwater.cli.shell import say
from headwater.config import ExtractConfig
from headwater.errors import UsageError
from headwater.registry import add_plugin
from headwater.settings import flatten, merge, parse_overrides, read_yaml, validate

EPILOG = """examples:
  headwater extract -u fbank_no_cmvn                                the demo corpus, into the store
  headwater extract -u tera --data corpus.csv --workers 8           eight processes of one thread
  headwater extract -u tera --data corpus.csv --shard 3/16          the fourth of sixteen machines
  headwater extract -u tera --data corpus.csv -l 6 --out features   .npy files: data for -u features
docs/extract.md explains what is written; docs/scale.md plans large corpora."""

# Settings of the sections that these flags make, and that mean nothing here.
MEANINGLESS = {"labels", "label_column", "trials", "splits", "memory_gib", "cache"}
SECTIONS = ("data", "store", "batch", "shard")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="headwater extract",
        description="Compute the features of a corpus once, into the store that every evaluation reads, or into plain files.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = top.add_argument_group("which features of which data")
    flags.upstream_flag(what, required=True)
    flags.model_flags(what)
    flags.layer_flags(what, "all layers, the default")
    what.add_argument("--pooled", action="store_true", help="the mean over each utterance in the place of its frames")
    flags.plugin_flag(what, "an upstream")
    flags.data_flag(what)
    what.add_argument("--split", metavar="S", nargs="+", default=[], help="only these splits of the corpus")
    flags.utterance_flags(what, skipped=", and say which")
    how = top.add_argument_group("who computes")
    add = how.add_argument
    add("--workers", metavar="N", type=int, help="processes of one thread each; of --engine ray, actors")
    add(
        "--shard", metavar="I/N", help="this command does part I of N, from 0; torchrun's ranks are dealt by themselves"
    )
    add("--engine", choices=("local", "ray"), default="local", help="ray: the actors of a Ray cluster (RAY_ADDRESS)")
    flags.device_flag(how)
    add("--dry-run", action="store_true", help="read, hash and plan; compute and write nothing")
    where = top.add_argument_group("what is written")
    add = where.add_argument
    add("--out", metavar="DIR", type=Path, help="plain files in the place of the store")
    add("--format", choices=("npy", "safetensors"), help="of --out (default: npy)")
    flags.extract_dtype_flag(where, "bfloat16: what the encoder computes in, with an error that is stated")
    flags.cache_dtype_flag(where, "is stated")
    flags.budget_flag(where, "the store")
    flags.override_flag(where)
    return top


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Flags and overrides as nested settings."""
    overrides = parse_overrides(args.override)
    for key in flatten(overrides):
        section, _, name = key.partition(".")
        fits = section in SECTIONS and name.partition(".")[0] not in MEANINGLESS
        if not (fits or key.startswith("upstream.config.") or key == "sample_rate"):
            raise UsageError(
                f"-o {key}: an extraction has settings upstream.config.*, sample_rate, and those of {', '.join(SECTIONS)} that say what is read, kept or cut"
            )
    config = read_yaml(args.upstream_model_config) if args.upstream_model_config else {}
    said = {
        "upstream": flags.given(
            name=args.upstream,
            ckpt=args.upstream_ckpt,
            config=config,
            selection=args.upstream_feature_selection,
            layer=args.upstream_layer_selection,
        ),
        "data": flags.data_settings(args),
        "store": flags.given(dtype=args.cache_dtype, extract_dtype=args.extract_dtype, budget_gib=args.cache_budget),
        "splits": args.split,
        "pooled": args.pooled,
    }
    return merge(said, overrides)


def shard_of(args: argparse.Namespace) -> tuple[int, int]:
    """Which part of how many: what --shard says, or torchrun."""
    ranks, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
    if ranks != "1":
        if args.shard is not None:
            raise UsageError(
                f"--shard {args.shard}: torchrun started {ranks} processes, which are shards already; give one of them"
            )
        args.shard = f"{rank}/{ranks}"
    number, slash, count = (args.shard or "0/1").partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise UsageError(f"--shard {args.shard}: write I/N, counted from 0: 0/8 to 7/8 for eight")
    return int(number), int(count)


def main(arguments: Sequence[str]) -> int:
    """Parse, extract, say."""
    args = parser().parse_args(list(arguments))
    shard = shard_of(args)
    if args.workers is not None and args.workers < 1:
        raise UsageError(f"--workers {args.workers}: at least 1")
    if args.format is not None and args.out is None:
        raise UsageError("--format belongs to --out DIR; the store has a form of its own")
    if args.cache_budget is not None and args.out is not None:
        raise UsageError("--cache-budget is the store's; --out writes plain files in its place")
    if args.upstream.startswith("ckpt:") and args.upstream_ckpt is not None:
        raise UsageError(f"-u {args.upstream} names a weight file, and so does -k: give one of them")
    if args.upstream_layer_selection is not None and args.upstream_feature_selection is not None:
        raise UsageError("-l and -s both say which layers: give one of them")
    for plugin in args.plugin:
        add_plugin(plugin)
    config = on_the_demo(validate(ExtractConfig, settings_of(args)), say)
    from headwater.extraction import extract

    extract(
        config,
        plugins=args.plugin,
        out=args.out,
        format=args.format or "npy",
        shard=shard,
        workers=args.workers,
        engine=args.engine,
        device=args.device,
        dry_run=args.dry_run,
        say=say if shard[0] == 0 or "RANK" not in os.environ else lambda line: None,  # one of torchrun's speaks for all
    )
    return 0
