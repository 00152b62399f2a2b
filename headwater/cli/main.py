"""`headwater VERB` and `python -m headwater VERB`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import headwater
from headwater.cli.shell import guarded
from headwater.errors import HeadwaterError, UsageError, nearest
from headwater.registry import KINDS, Card, Kind, add_plugin, registries

VERBS = {
    "run": "evaluate a representation on a task (the same as run_downstream.py)",
    "pretrain": "train an upstream (the same as run_pretrain.py)",
    "extract": "features of a corpus into the store or into files, by any number of processes and machines",
    "units": "discrete units: clusters of any layer's frames, what they know of phones, and targets for hubert",
    "export": "a model of Mockingjay's family as a file of S3PRL's, and back",
    "convert": "a checkpoint of fairseq or S3PRL as safetensors, without either of them",
    "raw": "audio as NII's raw files (.mfbsp, .f0), which source-filter vocoders resynthesise",
    "ls": "list upstreams and tasks",
    "show": "everything about one of them, its settings too",
    "fetch": "download the weights of upstreams ahead of time: `headwater fetch NAME...`",
    "check": "check an upstream, yours too, against the contract: `headwater check upstream NAME`",
    "table": "one table of many runs",
    "compare": "the paired difference of two runs",
    "score": "what scores in files are worth: `headwater score asv_spoof SCORES --key KEY`",
    "cache": "frozen features that are kept on disk: `headwater cache ls|prune|verify`",
    "analyze": "what a representation does, without a task: `headwater analyze lnsr|attention|layers`",
    "bench": "how fast an upstream is on this machine, and what it takes: `headwater bench NAME`",
    "doctor": "what is installed, and what is missing for what",
}


def main(arguments: Sequence[str]) -> int:
    """Hand the arguments to a verb."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("headwater: what does a speech representation know?\n")
        print("\n".join(f"  headwater {verb:<9} {text}" for verb, text in VERBS.items()))
        return 0 if arguments else 2
    verb, rest = arguments[0], list(arguments[1:])
    if verb == "--version":
        print(headwater.__version__)
        return 0
    if verb not in VERBS:
        raise UsageError(f"there is no verb {verb!r}.{nearest(verb, list(VERBS))} `headwater --help` lists all")
    if verb == "run":
        from headwater.cli.run import main as run

        return run(rest)
    if verb == "pretrain":
        from headwater.cli.pretrain import main as pretrain

        return pretrain(rest)
    if verb == "analyze":
        from headwater.cli.analyze import main as analyze

        return analyze(rest)
    if verb == "extract":
        from headwater.cli.extract import main as extract

        return extract(rest)
    if verb == "bench":
        from headwater.cli.bench import main as bench

        return bench(rest)
    if verb == "score":
        from headwater.cli.score import main as score

        return score(rest)
    if verb == "units":
        from headwater.cli.units import main as units

        return units(rest)
    if verb == "cache":
        from headwater.cli.cache import main as cache

        return cache(rest)
    if verb == "export":
        from headwater.cli.export import main as export

        return export(rest)
    if verb == "convert":
        from headwater.cli.convert import main as convert

        return convert(rest)
    if verb == "raw":
        from headwater.cli.raw import main as raw

        return raw(rest)
    verbs = {"ls": _list, "show": _show, "fetch": _fetch, "check": _check, "table": _table, "compare": _compare}
    return {**verbs, "doctor": _doctor}[verb](rest)


def entry() -> int:
    """The console script."""
    return guarded(main, sys.argv[1:])


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"headwater {verb}", description=VERBS[verb], allow_abbrev=False)
    parser.add_argument(
        "--plugin", metavar="PATH", action="append", default=[], help="a Python file or folder of yours"
    )
    return parser


def _list(arguments: Sequence[str]) -> int:
    from headwater.download import standing

    parser = _parser("ls")
    parser.add_argument("kind", nargs="?", choices=("upstreams", "downstreams", "objectives"))
    args = parser.parse_args(arguments)
    for plugin in args.plugin:
        add_plugin(plugin)
    for kind in KINDS:
        plural = "objectives" if kind == "pretrain" else f"{kind}s"
        if args.kind not in (None, plural):
            continue
        cards = sorted(registries[kind], key=lambda card: card.name)
        print(f"{plural} ({len(cards)})")
        for card in cards:
            names = card.name + (f" ({', '.join(card.aliases)})" if card.aliases else "")
            text = card.summary + (f" [{weights}]" if (weights := standing(card)) else "")
            print(f"  {names:<22} {text}" if len(names) <= 22 else f"  {names}\n  {'':<22} {text}")
    return 0


def _show(arguments: Sequence[str]) -> int:
    parser = _parser("show")
    parser.add_argument("name")
    args = parser.parse_args(arguments)
    for plugin in args.plugin:
        add_plugin(plugin)
    cards = [found for kind in KINDS if (found := _find(kind, args.name)) is not None]
    if not cards:
        known = [name for kind in KINDS for name in registries[kind].names()]
        raise UsageError(f"nothing is called {args.name!r}.{nearest(args.name, known)} `headwater ls` lists all names")
    for card in cards:
        _print_card(card)
    return 0


def _find(kind: Kind, name: str) -> Card | None:
    return registries[kind][name] if name in registries[kind].names() else None


def _print_card(card: Card) -> None:
    import yaml

    from headwater.download import path_of, standing

    weights = standing(card)
    print(f"{card.kind} {card.name}: {card.summary}")
    for title, value in (
        ("aliases", ", ".join(card.aliases)),
        ("paper", card.paper),
        ("source", f"{card.folder} ({card.expert})"),
        ("data", card.data),
        ("short input", card.short_input),
        ("long input", card.long_input),
        ("beware", card.warning),
        ("weights", weights and f"{weights}: {path_of(card)}" if card.weights else weights),
        *_about(card),
        ("on the demo", card.demo and f"{card.demo} in a run without --data"),
    ):
        if value:
            print(f"  {title:<12} {value}")
    if card.kind == "upstream" and weights in (None, "bundled", "in the cache"):
        from headwater.loading import load_upstream

        try:
            model = load_upstream(card.name)
        except HeadwaterError as error:
            print(f"  {'not loaded':<12} {error}")
        else:
            rate = model.sample_rate
            print(
                f"  {'output':<12} {model.out_dim} dims every {1000 * model.stride / rate:g} ms at {rate} Hz; "
                f"centre of the first frame at sample {model.offset:g}"
            )
            print(f"  {'layers':<12} {', '.join(model.layer_names)}")
            print(f"  {'parameters':<12} {sum(parameter.numel() for parameter in model.parameters())}")
    if card.config:
        print("  settings on the card:")
        print("    " + yaml.safe_dump(card.config, sort_keys=False).strip().replace("\n", "\n    "))
    if card.kind == "downstream":
        _print_settings(card)


def _about(card: Card) -> list[tuple[str, Any]]:
    """What the card knows of its weights."""
    from headwater.download import standing

    if (weights := card.weights) is None:
        return []
    return [
        ("from", weights.url),
        ("", weights.note),
        ("sha256", weights.sha256),
        ("trained on", ", ".join(weights.corpora) or (weights.url and "not known")),
        ("licence", weights.licence or (weights.url and "not known: ask those who made the weights")),
        ("parameters", weights.parameters if standing(card) == "to be downloaded" else None),
    ]


def _fetch(arguments: Sequence[str]) -> int:
    from headwater.download import fetch, file_sha256, standing

    parser = _parser("fetch")
    parser.add_argument("names", nargs="+", metavar="NAME", help="an upstream")
    parser.add_argument("--refresh", action="store_true", help="download again what is there already")
    args = parser.parse_args(arguments)
    for plugin in args.plugin:
        add_plugin(plugin)
    for card in [registries["upstream"][name] for name in args.names]:
        if card.weights is None or card.weights.bundled:
            print(f"{card.name}: nothing to download ({standing(card) or 'it has no weights'})")
            continue
        path = fetch(card.weights, refresh=args.refresh)
        print(f"{card.name}: {path}, sha256 {file_sha256(path)}")
    return 0


def _print_settings(card: Card) -> None:
    from headwater.train.task import Task

    expert = card.load()
    if not (isinstance(expert, type) and issubclass(expert, Task)):
        return
    print("  settings of the task (-o task.KEY=VALUE):")
    for name, field in expert.Config.model_fields.items():
        print(f"    {name} = {field.get_default(call_default_factory=True)!r}  {field.description or ''}".rstrip())
    if expert.Config.__doc__:
        print(f"    {' '.join(expert.Config.__doc__.split())}")


def _check(arguments: Sequence[str]) -> int:
    from headwater.checks import check_upstream
    from headwater.settings import read_yaml

    parser = _parser("check")
    parser.add_argument("kind", choices=("upstream",))
    parser.add_argument("name")
    parser.add_argument("-k", "--ckpt", metavar="FILE")
    parser.add_argument("-g", "--config", metavar="FILE")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(arguments)
    for plugin in args.plugin:
        add_plugin(plugin)
    points = check_upstream(
        args.name, ckpt=args.ckpt, config=read_yaml(args.config) if args.config else None, device=args.device
    )
    for point in points:
        print(
            f"{'ok    ' if point.passed else 'FAILED'} {point.claim}"
            + ("" if point.passed else f"\n       {point.explanation}")
        )
    failed = sum(not point.passed for point in points)
    print(f"{args.name}: {len(points) - failed} of {len(points)} points hold")
    return 1 if failed else 0


def _table(arguments: Sequence[str]) -> int:
    from headwater.results.files import write_bytes
    from headwater.results.table import table

    parser = _parser("table")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument(
        "--pool", action="store_true", help="join the scores of folds of one evaluation into one figure"
    )
    parser.add_argument("--split", default="test")
    parser.add_argument(
        "--format", choices=("text", "csv", "html"), default=None, help="default: text, or what --out is called"
    )
    parser.add_argument("--out", type=Path, metavar="FILE")
    args = parser.parse_args(arguments)
    form: Any = args.format or {".csv": "csv", ".html": "html"}.get(args.out.suffix if args.out else "", "text")
    text = table(args.runs, format=form, split=args.split, pool=args.pool)
    if args.out is None:
        print(text, end="" if text.endswith("\n") else "\n")
    else:
        write_bytes(args.out, text.encode())
    return 0


def _compare(arguments: Sequence[str]) -> int:
    from headwater.results.compare import compare

    parser = _parser("compare")
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--split", default="test")
    args = parser.parse_args(arguments)
    print(compare(args.a, args.b, split=args.split))
    return 0


def _doctor(arguments: Sequence[str]) -> int:
    from headwater.cli.doctor import examine

    _parser("doctor").parse_args(arguments)
    return examine()
