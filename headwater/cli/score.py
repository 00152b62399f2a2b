"""`headwater score TASK SCORES`: what scores in files are worth, by the measures of a task."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headwater.cli import breakdowns
from headwater.errors import UsageError
from headwater.registry import add_plugin, downstreams

if TYPE_CHECKING:
    from headwater.metrics import Groups, Metric
    from headwater.metrics.rows import Table
    from headwater.metrics.sheet import Scorer

PLOTS: dict[str, Literal["svg", "png"]] = {".svg": "svg", ".png": "png"}


def main(arguments: Sequence[str]) -> int:
    """Read, measure, print."""
    top = parser()
    if not arguments or arguments[0] in ("-h", "--help"):
        top.parse_args(list(arguments))
    if arguments[0].startswith("-"):
        raise UsageError(
            f"headwater score {arguments[0]}: the task comes first, as in `headwater score asv_spoof FILE`"
        )
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--plugin", action="append", default=[])
    for plugin in first.parse_known_args(list(arguments))[0].plugin:
        add_plugin(plugin)
    scorer: type[Scorer] = downstreams[arguments[0]].load_scorer()
    scorer.add_arguments(top)
    args = top.parse_args(list(arguments))
    if args.plot is not None and args.plot.suffix not in PLOTS:
        raise UsageError(f"--plot {args.plot}: the name of a picture ends in {' or '.join(PLOTS)}")
    if args.seed < 0:
        raise UsageError(f"--seed {args.seed}: a seed is a whole number, 0 or more")
    chosen = [_keys(text) for text in args.by]

    from headwater.metrics import Breakdown, break_down, evaluate
    from headwater.metrics.rows import Table

    sheet = scorer.read(args)
    table = Table(sheet.rows)
    asked = [
        Breakdown(keys[0], sheet.shared, keys[1] if len(keys) > 1 else None)
        for keys in chosen or [[key] for key in sheet.keys]
    ]
    metrics = evaluate(sheet.measures, table, args.seed)
    groups = {
        breakdown.name: break_down(breakdown, sheet.measures, table, args.seed) for breakdown in dict.fromkeys(asked)
    }
    _print(metrics, groups, sheet.notes)
    if args.json is not None:
        from headwater.results.files import write_json

        write_json(args.json, _content(args, metrics, groups, sheet.notes))
    if args.plot is not None:
        _plot(table, args.plot)
    return 0


def parser() -> argparse.ArgumentParser:
    """What all tasks have in common; each adds the options that say what its files are."""
    top = argparse.ArgumentParser(prog="headwater score", description=__doc__, allow_abbrev=False)
    add = top.add_argument
    add("task", metavar="TASK", help="asv_spoof, or another task whose card names a scorer")
    add("scores", metavar="SCORES", type=Path, help="the file of scores")
    add(
        "--by",
        metavar="KEY[,KEY]",
        action="append",
        default=[],
        help="show groups by this instead: attack; or attack,codec for every pair of the two; may be repeated",
    )
    add("--json", metavar="FILE", type=Path, help="write all numbers there")
    add("--plot", metavar="FILE", type=Path, help="draw the DET curve of all trials there (.svg or .png)")
    add("--seed", metavar="N", type=int, default=0, help="of the resamples (default 0)")
    add("--plugin", metavar="PATH", action="append", default=[], help="a Python file or folder with a task of yours")
    return top


def _keys(text: str) -> list[str]:
    keys = text.split(",")
    if not 1 <= len(keys) <= 2 or not all(keys) or len({*keys}) < len(keys):
        raise UsageError(f"--by {text}: one key, or two different ones with a comma between them")
    return keys


def _print(metrics: Mapping[str, Metric], groups: Mapping[str, Groups], notes: Sequence[str]) -> None:
    from headwater.data.text import some

    anyone = next(iter(metrics.values()))
    print(f"pooled: {anyone.n} trials, {anyone.clusters} clusters")
    for name, metric in metrics.items():
        print(f"  {name:<16} {metric.describe()}")
    said: dict[str, list[str]] = {note: [] for note in notes} | _notes({"": metrics})
    for breakdown, found in groups.items():
        print(f"\nby {breakdown}")
        for line in breakdowns.table(breakdown, found, metrics, "trials"):
            print(f"  {line}")
        said |= {note: [] for note in found.notes}
        for note, places in _notes(found.metrics).items():
            said[note] = [*said.get(note, []), *places]
    print("\n[ ]: 95 % interval, from resampling speakers where they are known, else trials")
    for note, places in said.items():
        print(f"note: {note}" + (f" ({some(places)})" if places else ""))


def _notes(groups: Mapping[str, Mapping[str, Metric]]) -> dict[str, list[str]]:
    """What is noted of the numbers of some groups, each with the places it is said of."""
    found: dict[str, list[str]] = {}
    for group, metrics in groups.items():
        for name, metric in metrics.items():
            for note in metric.note.split("; ") if metric.note else ():
                found.setdefault(note, []).append(f"{group} {name}".strip())
    return found


def _content(
    args: argparse.Namespace, metrics: Mapping[str, Metric], groups: Mapping[str, Groups], notes: Sequence[str]
) -> dict[str, Any]:
    return {
        "task": args.task,
        "scores": str(args.scores),
        "metrics": {name: metric.to_json() for name, metric in metrics.items()},
        "breakdowns": {
            name: {
                "groups": {
                    group: {measure: metric.to_json() for measure, metric in of_group.items()}
                    for group, of_group in found.metrics.items()
                },
                "notes": list(found.notes),
            }
            for name, found in groups.items()
        },
        "notes": list(notes),
    }


def _plot(table: Table, file: Path) -> None:
    from headwater.metrics import det_curve
    from headwater.metrics.bands import det_band
    from headwater.results.files import write_bytes
    from headwater.results.plots import det_plot

    scores, targets = table.column("score"), table.column("target")
    curve = det_curve(scores[targets == 1], scores[targets == 0])
    write_bytes(file, det_plot(curve, det_band(table), format=PLOTS[file.suffix]))
    print(f"DET curve  {file}")
