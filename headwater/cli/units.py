"""`headwater units`: discrete units of a corpus."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.cli import flags
from headwater.cli.names import demo_weights
from headwater.cli.shell import say
from headwater.config import DataConfig, UpstreamConfig
from headwater.errors import UsageError
from headwater.registry import add_plugin
from headwater.settings import flatten, merge, parse_overrides, read_yaml, validate

if TYPE_CHECKING:
    from headwater.units.make import Wish

EPILOG = """examples:
  headwater units -u mfcc                                        the demo corpus, 100 clusters of MFCC
  headwater units -u tera -l 2 -c 500 --data corpus.csv          500 clusters of a layer
  headwater units -u mfcc --data corpus.csv -p units             targets of run_pretrain.py -u hubert -o model.units=units
  headwater units -u mfcc --data other.csv --centres units       the units of other speech, with clusters that are there
docs/units.md explains what is written and measured."""
OURS = {"units.txt", "units.json", "centres.safetensors"}
MEANINGLESS = ("label_column", "trials", "splits")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="headwater units",
        description="Cluster the frames of a layer (k-means), and write the cluster of every frame.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = top.add_argument
    flags.upstream_flag(top, required=True)
    flags.model_flags(top)
    add(
        "-l",
        "--layer",
        metavar="N",
        type=int,
        help="the hidden state, from 0; negative from the end (default: the last)",
    )
    add("-c", "--clusters", metavar="K", type=int, help="how many (default 100)")
    add(
        "--frames",
        metavar="N",
        type=int,
        help="at most so many are clustered, an even share of all speech (default 200000)",
    )
    add(
        "--centres",
        metavar="DIR",
        type=Path,
        help="a folder of units, whose clusters are taken in the place of new ones",
    )
    flags.data_flag(top)
    add("--fit", metavar="SPLIT", help="what is clustered where the data states splits (default train)")
    add("--split", metavar="SPLIT", help="what is measured against -o data.labels=... there (default test)")
    flags.utterance_flags(top, skipped=", and say which")
    add("--seed", type=int, help="of the clusters and the baseline (default 1337)")
    add(
        "--memory-gib",
        metavar="GIB",
        type=float,
        help="of features that are held; others are computed again (default 4)",
    )
    add("-p", "--expdir", metavar="DIR", type=Path, help="where to write (default result/units/NAME-lLAYER-cCLUSTERS)")
    add("--force", action="store_true", help="write over units that are there")
    flags.device_flag(top)
    flags.plugin_flag(top, "an upstream")
    flags.override_flag(top)
    return top


def main(arguments: Sequence[str]) -> int:
    """Parse, make, say what came of it."""
    args = parser().parse_args(list(arguments))
    for plugin in args.plugin:
        add_plugin(plugin)
    settings = wish_of(args)
    folder = folder_of(args)
    from headwater.metrics import Metric
    from headwater.train.distributed import local_device
    from headwater.units.make import make_units
    from headwater.units.measures import describe

    about = make_units(settings, folder, device=local_device(args.device), say=say)
    if "phones" in about:
        scored = about["phones"]
        say(
            f"phones     {scored['frames']} labels of {scored['classes']} classes, {scored['utterances']} utterances ({scored['split']})"
        )
        for line in describe({name: Metric.from_json(content) for name, content in scored["metrics"].items()}):
            say(f"           {line}")
    say(f"result     {folder / 'units.txt'}; {folder / 'units.json'} says what they are")
    return 0


def wish_of(args: argparse.Namespace) -> Wish:
    """What is wanted, from flags, YAML and overrides. `UsageError` for what has no meaning."""
    overrides = parse_overrides(args.override)
    for key in flatten(overrides):
        section, _, name = key.partition(".")
        if not key.startswith("upstream.config.") and (section != "data" or name in MEANINGLESS):
            raise UsageError(f"-o {key}: units have settings upstream.config.* and those data.* that say what is read")
    for flag, value, least in (
        ("-c", args.clusters, 2),
        ("--frames", args.frames, 2),
        ("--memory-gib", args.memory_gib, 0),
        ("--seed", args.seed, 0),
    ):
        if value is not None and not value >= least:  # NaN, too
            raise UsageError(f"{flag} {value}: at least {least}")
    if args.centres is not None and (args.clusters, args.frames, args.fit) != (None, None, None):
        raise UsageError("-c, --frames and --fit are for new clusters, and --centres brings its own")
    config = read_yaml(args.upstream_model_config) if args.upstream_model_config else {}
    data = validate(DataConfig, merge(flags.data_settings(args), overrides.get("data", {})), "data")
    chosen = {"name": args.upstream, "ckpt": args.upstream_ckpt, "config": config}
    upstream = validate(UpstreamConfig, merge(chosen, overrides.get("upstream", {})), "upstream")
    from headwater.units.make import Wish

    asked = flags.given(
        layer=args.layer,
        clusters=args.clusters,
        frames=args.frames,
        centres=args.centres,
        fit=args.fit,
        score=args.split,
        seed=args.seed,
        memory=None if args.memory_gib is None else args.memory_gib * 2**30,
    )
    return Wish(demo_weights(upstream, data, say), data, **asked)


def folder_of(args: argparse.Namespace) -> Path:
    """Where to write, checked before the work begins. `UsageError` where other things lie there."""
    name = re.sub(r"[^\w.+-]+", "-", args.upstream).strip("-")[:100]
    ending = f"l{'ast' if args.layer is None else args.layer}-c{args.clusters or (100 if args.centres is None else args.centres.name)}"
    folder = args.expdir or Path("result") / "units" / f"{name}-{ending}"
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; units need a folder")
    held = {child.name for child in folder.glob("[!.]*")}
    if held - OURS:
        raise UsageError(
            f"{folder} holds other things ({', '.join(sorted(held - OURS)[:3])}); choose another folder with -p"
        )
    if held and not args.force:
        raise UsageError(f"{folder} holds units already; --force writes over them, -p chooses another folder")
    return Path(folder)
