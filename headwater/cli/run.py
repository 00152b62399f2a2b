"""`run_downstream.py` and `headwater run`: train, evaluate, predict."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headwater.cli import breakdowns, s3prl
from headwater.cli.names import on_the_demo, run_path
from headwater.cli.run_settings import parser, settings_of, settings_of_flags
from headwater.cli.shell import say
from headwater.config import RunConfig
from headwater.errors import UsageError
from headwater.registry import add_plugin
from headwater.settings import merge, parse_overrides, validate


def main(arguments: Sequence[str]) -> int:
    """Parse, build, run, report."""
    notes: list[str] = []
    if s3prl.is_2020(arguments):
        arguments, notes = s3prl.translate_2020(arguments)
    args = parser().parse_intermixed_args(list(arguments))
    for plugin in args.plugin:
        add_plugin(plugin)
    if args.mode in ("evaluate", "predict", "inference"):
        if args.past_exp is None:
            raise UsageError(f"-m {args.mode} needs -e RUN_FOLDER, the run to use")
        _refuse_training_flags(args)
        return _evaluate(args) if args.mode == "evaluate" else _predict(args)
    if args.files:
        raise UsageError(f"{args.files[0]}: files are for -m predict; data to train on goes behind --data")
    for flag, value in (("-t", args.evaluate_split), ("--out", args.out), ("--stream", args.stream)):
        if value is not None:
            raise UsageError(f"{flag} belongs to -m evaluate and -m predict; a training run scores dev and test itself")
    settings, more = settings_of(args)
    for note in [*notes, *more]:
        say(f"note       {note}")
    config = on_the_demo(validate(RunConfig, settings), say)
    if config.upstream.name.startswith("ckpt:") and config.upstream.ckpt is not None:
        raise UsageError(f"-u {config.upstream.name} names a weight file, and so does -k: give one of them")
    if config.upstream.lr is not None and not config.upstream.trainable:
        raise UsageError("upstream.lr (--upstream_lr) has a meaning only with -f (--fine_tune)")
    if config.upstream.freeze and not config.upstream.trainable:
        raise UsageError("upstream.freeze has a meaning only with -f (--fine_tune); a frozen upstream is frozen whole")
    if config.probe != "head" and args.init_ckpt is not None:
        raise UsageError(
            f"--probe {config.probe} is computed, not trained, so there is nothing that -i could start from"
        )
    if config.grid.many and args.init_ckpt is not None:
        raise UsageError(
            "-i starts one probe from the weights of another; --layers all, --seeds and --lr-grid train many"
        )
    if args.expname and args.expdir:
        raise UsageError("-n names a run in result/downstream, -p its whole folder: give one of them")
    if args.expname and (Path(args.expname).is_absolute() or ".." in Path(args.expname).parts):
        raise UsageError(f"-n {args.expname}: a name in result/downstream is needed; a folder elsewhere goes behind -p")
    return _train(args, config)


def _refuse_training_flags(args: argparse.Namespace) -> None:
    """`UsageError` for a flag that evaluation and prediction would have to ignore."""
    for flag, value in (
        ("-u", args.upstream),
        ("-d", args.downstream),
        ("-c", args.config),
        ("-v", args.downstream_variant),
        ("-n", args.expname),
        ("-p", args.expdir),
        ("-i", args.init_ckpt),
        ("--probe", args.probe),
        ("--layers", args.layers),
        ("--seeds", args.seeds),
        ("--lr-grid", args.lr_grid),
        ("--fresh", args.fresh),
        ("--bundle", args.bundle),
        ("--dry-run", args.dry_run),
        ("-r", args.upstream_refresh),
    ):
        if value:
            raise UsageError(
                f"{flag} has no meaning with -m {args.mode}: upstream, task and settings are those of the run folder (-e)"
            )
    if args.mode == "evaluate" and args.stream is not None:
        raise UsageError("--stream belongs to -m predict")
    if args.mode == "evaluate" and args.files:
        raise UsageError(f"{args.files[0]}: files are for -m predict; a corpus to evaluate on goes behind --data")


def _train(args: argparse.Namespace, config: RunConfig) -> int:
    folder = (
        Path(args.expdir) if args.expdir else Path("result") / "downstream" / args.expname if args.expname else None
    )
    if folder is None and args.past_exp:
        folder = run_path(args.past_exp)
    if args.upstream_refresh:
        from headwater.loading import find

        find(config.upstream.name, config.upstream.ckpt, refresh=True)
    from headwater.train.runner import run

    result, path = run(
        config,
        folder=folder,
        device=args.device,
        fresh=args.fresh,
        dry_run=args.dry_run,
        bundle=args.bundle,
        init_ckpt=Path(args.init_ckpt) if args.init_ckpt else None,
        say=say,
    )
    if result is not None:
        report(result, path)
    return 0


def report(result: dict[str, Any], folder: Path | None = None) -> None:
    """The answer, each number with its interval; what must be known about it comes last."""
    from headwater.metrics import Metric

    for split, group in result["metrics"].items():
        for name, content in group.items():
            metric = Metric.from_json(content)
            chance = f", chance {metric.chance:.2f} {metric.unit}".rstrip() if metric.chance is not None else ""
            over = f", {metric.clusters} speakers" if metric.clusters not in (None, metric.n) else ""
            say(f"{split:<10} {name} {metric.describe()}, n = {metric.n}{over}{chance}")
    for split, keys in result.get("breakdown", {}).items():
        say(f"{split:<10} by {'; by '.join(keys)}: under `breakdown` in the result, and in the report")
    if folder is not None:
        say(f"result     {folder / 'result.json'}; {folder / 'report.html'} shows it")
    for note in result.get("notes", []):
        if "not distinguishable from chance" in note:
            say(f"WARNING    {note}")


def _evaluate(args: argparse.Namespace) -> int:
    from headwater.train.outcome import score
    from headwater.train.reopened import reopen
    from headwater.train.runner import conclusions, extract, grouped

    path = run_path(args.past_exp)
    overrides = merge(settings_of_flags(args), parse_overrides(args.override))
    parts = reopen(path, data=args.data, device=args.device, overrides=overrides, say=say, with_data=True)
    split = args.evaluate_split or "test"
    if not parts.items.get(split):
        raise UsageError(f"-t {split}: this data has the splits {', '.join(parts.items)}")
    parts.items = {split: parts.items[split]}
    extract(parts)
    scores = score(parts, [split])[split]
    metrics = scores.result()
    report(
        {
            "metrics": {split: {name: metric.to_json() for name, metric in metrics.items()}},
            "notes": conclusions(parts, {split: metrics}),
        }
    )
    for name, groups in grouped(parts, {split: scores}).get(split, {}).items():
        say(f"by {name}")
        for line in breakdowns.table(name, groups, metrics):
            say(f"  {line}")
    if args.out is not None:
        from headwater.results.files import write_rows

        write_rows(args.out, scores.rows())
        say(f"scores     {args.out}")
    return 0


def _predict(args: argparse.Namespace) -> int:
    from headwater.train.predict import check_name, predict, write_predictions
    from headwater.train.reopened import reopen

    files = [
        *args.files,
        *([Path(args.evaluate_split)] if args.mode == "inference" and args.evaluate_split else []),
        *([Path(args.data)] if args.data else []),
    ]
    if args.stream is not None and files:
        raise UsageError(f"--stream answers what comes in, so {files[0]} has no part in it: leave one of them out")
    if not files and args.stream is None:
        raise UsageError(
            "-m predict needs audio files or folders: run_downstream.py -m predict -e RUN_FOLDER a.wav FOLDER"
        )
    if args.limit is not None:
        raise UsageError("--limit has no meaning for -m predict: name fewer files")
    flags = settings_of_flags(args)
    flags["data"].pop("path", None)
    overrides = merge(flags, parse_overrides(args.override))
    quiet = args.out is None
    parts = reopen(
        run_path(args.past_exp),
        data=None,
        device=args.device,
        overrides=overrides,
        say=(lambda line: print(line, file=sys.stderr)) if quiet else say,
        with_data=False,
    )
    if args.stream is not None:
        from headwater.cli.stream import stream

        taken = stream(parts, args.stream, args.out)
        print(f"answers    {taken} samples", file=sys.stderr)
        return 0
    if parts.task.spec.level == "signal":
        rows = predict(parts, files, args.out)
        say(f"answers    {len(rows)} in {args.out}; answers.jsonl there names the files of each")
        return 0
    check_name(args.out)
    write_predictions(predict(parts, files), args.out)
    return 0
