"""`headwater analyze KIND`: what a representation does, without a task."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.cli import flags
from headwater.cli.names import demo_weights
from headwater.cli.shell import say
from headwater.config import DataConfig, UpstreamConfig
from headwater.errors import UsageError
from headwater.registry import add_plugin
from headwater.settings import flatten, merge, parse_overrides, read_yaml, validate

if TYPE_CHECKING:
    from headwater.analysis.findings import Findings
    from headwater.analysis.subject import Subject

SEED = 1337
SECONDS = 14.0  # so many stay below the 1500 frames at which most models here cut utterances
MEANINGLESS = ("labels", "label_column", "trials", "splits")  # of the settings of data


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="headwater analyze", description=__doc__, allow_abbrev=False)
    kinds = top.add_subparsers(dest="kind", metavar="KIND", required=True)
    lnsr = _kind(kinds, "lnsr", "how much of a disturbance of the sound arrives in each hidden state")
    _examined(lnsr)
    lnsr.add_argument("--perturb", choices=("noise", "gain"), help="white noise (the default), or another level")
    lnsr.add_argument("--snr", metavar="DB", type=float, help="of --perturb noise (default 20)")
    lnsr.add_argument("--gain", metavar="DB", type=float, help="of --perturb gain (default 6)")
    lnsr.add_argument(
        "--pairs", metavar="FILE", help="a list as --data takes, with a column `perturbed`: files of yours"
    )
    lnsr.add_argument("--seed", type=int, help=f"of the noise (default {SEED})")
    attention = _kind(kinds, "attention", "what each attention head looks at")
    _examined(attention)
    attention.add_argument(
        "--max-seconds",
        metavar="S",
        type=float,
        default=SECONDS,
        help=f"of longer utterances only the start (default {SECONDS:g})",
    )
    layers = _kind(kinds, "layers", "the layer weights that finished runs learned")
    layers.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    return top


def _kind(kinds: Any, name: str, text: str) -> argparse.ArgumentParser:
    found: argparse.ArgumentParser = kinds.add_parser(name, help=text, description=text, allow_abbrev=False)
    found.add_argument(
        "-p", "--expdir", metavar="DIR", type=Path, help=f"where to write (default result/analysis/{name}-NAME)"
    )
    return found


def _examined(found: argparse.ArgumentParser) -> None:
    """The flags of run_downstream.py that say what is examined on what."""
    flags.upstream_flag(found, "the representation", action="append", required=True)
    flags.model_flags(found, "the upstream")
    flags.override_flag(found, "upstream.config.* or data.*")
    flags.plugin_flag(found, "an upstream")
    flags.data_flag(found)
    found.add_argument("--split", default="test", help="where the data states splits (default: test)")
    flags.utterance_flags(found, limit="at most N utterances, spread over speakers")
    flags.device_flag(found)


def main(arguments: Sequence[str]) -> int:
    """Parse, examine, write, say."""
    args = parser().parse_args(list(arguments))
    for plugin in getattr(args, "plugin", []):
        add_plugin(plugin)
    return {"lnsr": _lnsr, "attention": _attention, "layers": _layers}[args.kind](args)


def _lnsr(args: argparse.Namespace) -> int:
    kind = "pairs" if args.pairs else args.perturb or "noise"
    for flag, value, fits in (
        ("--perturb", args.perturb, ("noise", "gain")),
        ("--data", args.data, ("noise", "gain")),
        ("--snr", args.snr, ("noise",)),
        ("--seed", args.seed, ("noise",)),
        ("--gain", args.gain, ("gain",)),
    ):
        if value is not None and kind not in fits:
            raise UsageError(f"{flag} has no meaning with {'--pairs' if args.pairs else f'--perturb {kind}'}")
    for flag, level in (("--snr", args.snr), ("--gain", args.gain)):
        if level is not None and not abs(level) <= 200:
            raise UsageError(f"{flag} {level:g}: decibels between -200 and 200")
    args.data = args.data or args.pairs
    wanted, data = _settings(args)
    folder = _folder(args, _names(wanted))
    from headwater.analysis import lnsr

    perturbation = {
        "noise": lnsr.Perturbation(
            "noise", 20.0 if args.snr is None else args.snr, SEED if args.seed is None else args.seed
        ),
        "gain": lnsr.Perturbation("gain", 6.0 if args.gain is None else args.gain),
        "pairs": lnsr.Perturbation("pairs"),
    }[kind]
    examined = [lnsr.examine(_load(one, data, args), perturbation) for one in wanted]
    return _conclude(lnsr.findings(examined, perturbation), folder)


def _attention(args: argparse.Namespace) -> int:
    if not 0 < args.max_seconds <= 3600:
        raise UsageError(f"--max-seconds {args.max_seconds:g}: above 0, at most 3600")
    if len(args.upstream) > 1:
        raise UsageError("-u: the heads of one upstream at a time")
    wanted, data = _settings(args)
    folder = _folder(args, _names(wanted))
    from headwater.analysis import attention

    subject = _load(wanted[0], data, args)
    return _conclude(attention.findings(subject, attention.examine(subject, args.max_seconds)), folder)


def _layers(args: argparse.Namespace) -> int:
    from headwater.analysis import layers

    runs = list(dict.fromkeys(args.runs))
    folder = _folder(args, [run.resolve().name for run in runs])
    return _conclude(layers.findings([layers.layer_weights(run) for run in runs]), folder)


def _settings(args: argparse.Namespace) -> tuple[list[UpstreamConfig], DataConfig]:
    """The upstreams that are meant, and the data, from flags, YAML and overrides."""
    if args.upstream_ckpt is not None and (len(args.upstream) > 1 or args.upstream[0].startswith("ckpt:")):
        raise UsageError("-k is the weight file of a single -u NAME; with several write -u ckpt:FILE")
    overrides = parse_overrides(args.override)
    for key in flatten(overrides):
        section, _, name = key.partition(".")
        if not key.startswith("upstream.config.") and (section != "data" or name in MEANINGLESS):
            raise UsageError(
                f"-o {key}: an analysis has settings upstream.config.* and those data.* that say what is read"
            )
    config = read_yaml(args.upstream_model_config) if args.upstream_model_config else {}
    data = validate(DataConfig, merge(flags.data_settings(args), overrides.get("data", {})), "data")
    wanted = []
    for name in dict.fromkeys(args.upstream):
        settings = merge({"name": name, "ckpt": args.upstream_ckpt, "config": config}, overrides.get("upstream", {}))
        wanted.append(demo_weights(validate(UpstreamConfig, settings, "upstream"), data, say))
    return wanted, data


def _names(wanted: Sequence[UpstreamConfig]) -> list[str]:
    """What the upstreams are called, with the weights they have."""
    from headwater.loading import find

    return [find(one.name, one.ckpt, random=one.config.get("random_weights") is not None).card.name for one in wanted]


def _folder(args: argparse.Namespace, names: Sequence[str]) -> Path:
    """Where to write, checked before the work begins."""
    from headwater.analysis.findings import check_folder

    name = re.sub(r"[^\w.+-]+", "-", "+".join(dict.fromkeys(names))).strip("-")[:100]
    folder = args.expdir or Path("result") / "analysis" / f"{args.kind}-{name}"
    check_folder(folder, args.kind)
    return folder


def _load(wanted: UpstreamConfig, data: DataConfig, args: argparse.Namespace) -> Subject:
    from headwater.analysis.subject import load_subject
    from headwater.train.distributed import local_device

    subject = load_subject(wanted, data, split=args.split, device=local_device(args.device))
    say(
        f"upstream   {subject.name}: {subject.upstream.num_layers} hidden state(s); {len(subject.utterances)} utterances"
    )
    return subject


def _conclude(findings: Findings, folder: Path) -> int:
    """Write, and say what came of it."""
    from headwater.analysis.findings import text_table, write

    write(findings, folder)
    for line in text_table(findings.head, findings.body):
        say(line)
    for note in findings.notes:
        say(f"note       {note}")
    say(f"result     {folder / 'analysis.json'}; {folder / 'report.html'} shows it")
    return 0
