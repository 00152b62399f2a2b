"""`run_downstream.py` and `headwater run`: train, evaluate, predict."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from headwater.cli import s3prl
from headwater.cli.flags import (
    budget_flag,
    cache_dtype_flag,
    data_flag,
    data_settings,
    device_flag,
    extract_dtype_flag,
    given,
    layer_flags,
    model_flags,
    override_flag,
    plugin_flag,
    upstream_flag,
    utterance_flags,
)
from headwater.config import (
    DataConfig,
    RunConfig,
    UpstreamConfig,
    flatten,
    merge,
    parse_overrides,
    read_recipe,
    read_yaml,
    validate,
)
from headwater.errors import UsageError, nearest
from headwater.paths import expert_root
from headwater.registry import Card, add_plugin, downstreams, upstreams

EPILOG = """examples:
  python run_downstream.py -u fbank_no_cmvn -d speaker                       the demo: nothing to prepare
  python run_downstream.py -u fbank_no_cmvn -d speaker --data corpus.csv     your data
  python run_downstream.py -u MyModel --plugin my_model.py -d phone          your model
  python run_downstream.py -m evaluate -e RUN_FOLDER                         score a finished run again
  python run_downstream.py -m predict -e RUN_FOLDER a.wav b.wav              answers for files
`headwater ls` lists names, `headwater show NAME` explains one; docs/ has the rest."""


def parser() -> argparse.ArgumentParser:
    """The flags, with S3PRL's letters and words."""
    top = argparse.ArgumentParser(
        prog="run_downstream.py",
        description="Evaluate a speech representation on a task.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = top.add_argument
    add("files", nargs="*", type=Path, help="predict: audio files or folders")
    add(
        "-m",
        "--mode",
        choices=("train", "evaluate", "predict", "inference"),
        default="train",
        help="train (and test), evaluate or predict with a finished run (-e)",
    )
    what = top.add_argument_group("what is asked of which representation")
    upstream_flag(what)
    what.add_argument("-d", "--downstream", metavar="NAME", help="the task")
    model_flags(what)
    layer_flags(what, "learned weighted sum")
    what.add_argument("--weighted_sum", action="store_true", help="learned weighted sum of all layers (the default)")
    what.add_argument(
        "--upstream_feature_normalize", action="store_true", help="layer norm of every hidden state before the sum"
    )
    what.add_argument("-f", "--upstream_trainable", "--fine_tune", action="store_true", help="fine-tune the upstream")
    what.add_argument("--upstream_lr", metavar="LR", type=float, help="its own learning rate when fine-tuned")
    what.add_argument(
        "--probe",
        choices=("head", "ridge", "logistic", "knn"),
        help="instead of training the task's head: ridge or logistic regression, or nearest neighbours",
    )
    plugin_flag(what, "an upstream or task")
    grid_flags(top)
    data = top.add_argument_group("data")
    data_flag(data)
    utterance_flags(data, skipped="; the result says how many")
    how = top.add_argument_group("settings and results")
    how.add_argument(
        "-c", "--config", metavar="FILE", help="YAML with settings, or the name of a recipe in config/downstream/TASK"
    )
    how.add_argument("-v", "--downstream_variant", metavar="NAME", help="a recipe in config/downstream/TASK, by name")
    override_flag(how)
    how.add_argument("-n", "--expname", metavar="NAME", help="the run's name: result/downstream/NAME")
    how.add_argument("-p", "--expdir", metavar="DIR", help="the run's folder, exactly there")
    how.add_argument(
        "-e",
        "--past_exp",
        metavar="DIR",
        help="a run: its settings (train goes on with it, evaluate and predict use it)",
    )
    how.add_argument("-i", "--init_ckpt", metavar="DIR", help="start from the weights of this run")
    how.add_argument("-a", "--auto_resume", action="store_true", help="always on; kept for S3PRL's users")
    how.add_argument("-r", "--upstream_refresh", action="store_true", help="download the upstream's weights again")
    how.add_argument(
        "-t",
        "--evaluate_split",
        metavar="SPLIT",
        help="evaluate: which split (default: test); inference: an audio file",
    )
    how.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="predict: where to write (.jsonl or .csv; a folder where answers are sound); standard output when not given",
    )
    how.add_argument(
        "--stream",
        choices=("stdin", "microphone"),
        nargs="?",
        const="stdin",
        help="predict: answer sound while it comes in, 16-bit mono PCM from standard input or a microphone (a causal model)",
    )
    how.add_argument("--no-cache", action="store_true", help="keep no frozen features on disk, and use none")
    budget_flag(how, "all that is kept")
    cache_dtype_flag(how, "the result states")
    extract_dtype_flag(how, "bfloat16: a faster encoder where the device has it, with an error that the result states")
    how.add_argument("--fresh", action="store_true", help="start over where a run of these settings exists")
    how.add_argument("--bundle", action="store_true", help="put the frozen upstream's weights into the run folder, too")
    how.add_argument(
        "--dry-run", action="store_true", help="check everything and show the plan; train and write nothing"
    )
    how.add_argument("--seed", type=int, help="of initialisation, data order and dropout (default 1337)")
    device_flag(how)
    return top


RATES = "1e-4,3e-4,1e-3,3e-3,1e-2,3e-2,1e-1,3e-1"


def grid_flags(top: argparse.ArgumentParser) -> None:
    """What is trained side by side."""
    grid = top.add_argument_group("a grid, trained in one run from one pass over the features")
    grid.add_argument("--layers", choices=("all",), help="all: a probe on every layer beside the weighted sum")
    grid.add_argument("--seeds", metavar="N", type=int, help="N seeds from --seed on: of initialisation and dropout")
    grid.add_argument(
        "--lr-grid",
        metavar="LIST",
        nargs="?",
        const=RATES,
        help="learning rates such as 1e-3,1e-2, chosen from on dev; eight from 1e-4 to 3e-1 when no list is given",
    )


def rates_of(text: str) -> list[float]:
    """`1e-3,1e-2` -> numbers. `UsageError` for anything else."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--lr-grid {text}: learning rates separated by commas are needed, such as 1e-3,1e-2"
        ) from None


def settings_of(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Command line over YAML over the task's card, as nested settings, and notes for the user."""
    notes: list[str] = []
    base: dict[str, Any] = {}
    if args.past_exp is not None:
        base = read_yaml(run_path(args.past_exp) / "config.yaml")
    # A config.yaml of a run names both; a recipe names neither.
    said = [read_yaml(args.config)] if args.config is not None and _is_file(args.config) else []
    name = args.downstream or _name_in("downstream", *said, base)
    card = downstreams[name] if name is not None else None
    recipes = []
    for recipe in (args.config, args.downstream_variant):
        if recipe is not None and card is not None:
            read, more = s3prl.translate_config(read_recipe(recipe_path(recipe, card.folder.name)))
            recipes.append(read)
            notes += more
    variant = recipes[-1] if args.downstream_variant is not None and recipes else {}
    upstream = _fixed_by(variant, args) or args.upstream or _name_in("upstream", *said, base)
    if card is None or upstream is None:
        lists = f"tasks: {', '.join(card.name for card in downstreams)}; upstreams: {', '.join(card.name for card in upstreams)}"
        raise UsageError(f"-u UPSTREAM and -d TASK are needed ({lists})")
    overrides, more = s3prl.translate_config(parse_overrides(args.override))
    asked = [base, *recipes, {"upstream": {"name": upstream}, "downstream": name}, _flags(args), overrides]
    return merge(*_defaults(card, demo=_path_in(*asked) is None), *asked), notes + more


def _defaults(card: Card, *, demo: bool) -> list[dict[str, Any]]:
    """What a task's card says of its settings."""
    recipe = [read_recipe(recipe_path(card.recipe, card.folder.name))] if card.recipe is not None else []
    return [*recipe, card.config, *([card.demo_config] if demo else [])]


def _path_in(*layers: dict[str, Any]) -> str | None:
    """The data that settings name; None stands for the demo."""
    data = merge(*layers).get("data")
    return data.get("path") or data.get("trials") if isinstance(data, dict) else None


def _flags(args: argparse.Namespace) -> dict[str, Any]:
    """What flags say, in settings; a flag that was not given says nothing."""
    if args.weighted_sum and (
        args.upstream_layer_selection is not None or args.upstream_feature_selection == "last_hidden_state"
    ):
        raise UsageError("--weighted_sum asks for all layers, -l and -s last_hidden_state for one: give one of them")
    upstream = given(
        config=read_yaml(args.upstream_model_config) if args.upstream_model_config is not None else None,
        ckpt=args.upstream_ckpt,
        selection="hidden_states" if args.weighted_sum else args.upstream_feature_selection,
        layer=args.upstream_layer_selection,
        lr=args.upstream_lr,
        normalize=args.upstream_feature_normalize or None,
        trainable=args.upstream_trainable or None,
    )
    store = given(
        cache=False if args.no_cache else None,
        budget_gib=args.cache_budget,
        dtype=args.cache_dtype,
        extract_dtype=args.extract_dtype,
    )
    lrs = rates_of(args.lr_grid) if args.lr_grid is not None else None
    grid = given(layers=args.layers, seeds=args.seeds, lrs=lrs)
    single = given(seed=args.seed, probe=args.probe)
    return {"upstream": upstream, "data": data_settings(args), "store": store, "grid": grid, **single}


def _fixed_by(variant: dict[str, Any], args: argparse.Namespace) -> str | None:
    """The upstream that the recipe of `-v` is made for; None where it takes any. `UsageError` where another is asked for."""
    fixed = _name_in("upstream", variant)
    if fixed is not None and args.upstream is not None and upstreams[args.upstream].name != upstreams[fixed].name:
        raise UsageError(
            f"-v {args.downstream_variant} is made for the upstream {fixed}, so -u {args.upstream} does not go with it; leave -u out, or take another recipe"
        )
    return fixed


def _name_in(key: str, *settings: dict[str, Any]) -> str | None:
    """The upstream or task that the first of some settings names."""
    for layer in settings:
        held = layer.get(key)
        name = held.get("name") if isinstance(held, dict) else held
        if isinstance(name, str):
            return name
    return None


def _is_file(name: str) -> bool:
    return Path(name).suffix in (".yaml", ".yml") or Path(name).is_file()


def recipe_path(name: str, owner: str, kind: str = "downstream") -> Path:
    """A YAML file, or the recipe of this name of the task (or another kind of expert)."""
    if _is_file(name):
        return Path(name)
    folder = expert_root("config") / kind / owner
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if name not in known:
        raise UsageError(
            f"{name!r} is neither a YAML file nor a recipe of {owner!r}.{nearest(name, known)} Recipes: {', '.join(known) or 'none'}."
        )
    return folder / f"{name}.yaml"


def run_path(text: str) -> Path:
    """A run folder; a file in it or in its checkpoint/ names it, too."""
    path = Path(text)
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "config.yaml").is_file():
            return folder
    raise UsageError(f"-e {text}: no run there (a run folder holds config.yaml)")


def say(line: str) -> None:
    print(line, flush=True)


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


def on_the_demo(config: RunConfig, say: Callable[[str], None]) -> RunConfig:
    """On the demo corpus a name means the small weights of its card, where it has some; the settings say which from here on."""
    return config.model_copy(update={"upstream": demo_weights(config.upstream, config.data, say)})


def demo_weights(upstream: UpstreamConfig, data: DataConfig, say: Callable[[str], None]) -> UpstreamConfig:
    """The upstream that a name means on this data: on the demo, the small weights of its card."""
    own = (data.path, upstream.ckpt, upstream.config.get("random_weights")) != (None, None, None)
    if own or upstream.name.startswith("ckpt:") or not (small := upstreams[upstream.name].demo):
        return upstream
    say(
        f"upstream   {upstream.name}: the small demo weights ({small}), as no --data was given; with --data it is the official model"
    )
    return upstream.model_copy(update={"name": small})


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
    from headwater.train.parts import reopen
    from headwater.train.runner import conclusions, extract

    path = run_path(args.past_exp)
    overrides = merge(_flags(args), parse_overrides(args.override))
    _only_data(overrides)
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
    if args.out is not None:
        from headwater.results.files import write_rows

        write_rows(args.out, scores.rows())
        say(f"scores     {args.out}")
    return 0


# What may change of a finished run: it decides no numbers.
FREE = ("store.cache", "store.budget_gib", "store.memory_gib", "upstream.ckpt")


def _only_data(overrides: dict[str, Any]) -> None:
    other = [
        key
        for key, value in flatten(overrides).items()
        if value != {} and key not in FREE and not key.startswith(("data.", "batch."))
    ]
    if other:
        raise UsageError(
            f"{other[0]}: a finished run keeps its settings; only data.*, batch.*, {', '.join(FREE)} can be given to -m evaluate and -m predict"
        )


def _predict(args: argparse.Namespace) -> int:
    from headwater.train.parts import reopen
    from headwater.train.predict import check_name, predict, write_predictions

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
    flags = _flags(args)
    flags["data"].pop("path", None)
    overrides = merge(flags, parse_overrides(args.override))
    _only_data(overrides)
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
