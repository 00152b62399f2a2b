"""`run_pretrain.py` and `headwater pretrain`: train an upstream with a registered objective."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headwater.cli import flags, s3prl
from headwater.cli.names import recipe_path, run_path
from headwater.cli.shell import say
from headwater.config import PretrainConfig
from headwater.errors import UsageError
from headwater.registry import add_plugin, objectives
from headwater.settings import merge, parse_overrides, read_yaml, validate


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="run_pretrain.py",
        description="Train an upstream without labels. What is written loads as `-u ckpt:result/pretrain/NAME`.",
        allow_abbrev=False,
    )
    top.add_argument("-u", "--upstream", metavar="NAME", help="the objective (`headwater ls objectives`)")
    top.add_argument(
        "-g", "--upstream_config", metavar="FILE", help="YAML with all settings of the model: S3PRL's config_model.yaml"
    )
    top.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="YAML with all other settings, S3PRL's config_runner.yaml too, or the name of a recipe in config/pretrain/NAME",
    )
    top.add_argument("--data", metavar="PATH", help="a list, a corpus folder, or a folder of features")
    top.add_argument("--limit", metavar="N", type=int, help="at most N utterances, for trying things out")
    top.add_argument("--skip-bad-audio", action="store_true", help="go on without broken files")
    flags.override_flag(top)
    top.add_argument("-n", "--expname", metavar="NAME", help="the run's name: result/pretrain/NAME")
    top.add_argument("-p", "--expdir", metavar="DIR", help="the run's folder, exactly there")
    top.add_argument("-e", "--past_exp", metavar="DIR", help="go on with this run, with its settings")
    top.add_argument("-a", "--auto_resume", action="store_true", help="always on; kept for S3PRL's users")
    flags.plugin_flag(top, "an objective")
    top.add_argument("--fresh", action="store_true", help="start over where a run exists")
    top.add_argument("--dry-run", action="store_true", help="check everything and show the plan; write nothing")
    top.add_argument("--seed", type=int, help="of initialisation, crops, masks, order and dropout (default 1337)")
    top.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    return top


def settings_of(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Command line over YAML over the objective's card, as nested settings, and notes for the user."""
    base = read_yaml(run_path(args.past_exp) / "config.yaml") if args.past_exp is not None else {}
    name = args.upstream or base.get("objective")
    if not isinstance(name, str):
        raise UsageError(f"-u NAME is needed; objectives: {', '.join(card.name for card in objectives)}")
    card = objectives[name]
    recipe: dict[str, Any] = {}
    notes: list[str] = []
    defaults = card.config
    if args.config is not None:
        said = read_yaml(recipe_path(args.config, card.folder.name, "pretrain"))
        if s3prl.is_pretraining(said):
            # S3PRL's file says how to train in full; it does not lie over how our small model is trained.
            defaults = {"model": card.config.get("model", {})}
        recipe, notes = s3prl.translate_pretraining(said)
    settings = _over(_over(defaults, base), recipe)
    if args.upstream_config is not None:
        settings = {**settings, "model": read_yaml(args.upstream_config)}
    asked = {"data": flags.data_settings(args), **flags.given(seed=args.seed)}
    overrides, more = s3prl.translate_pretraining(parse_overrides(args.override))
    return merge(settings, asked, {"objective": name}, overrides), notes + more


def _over(settings: dict[str, Any], layer: dict[str, Any]) -> dict[str, Any]:
    """A file over other settings. A front-end is said as a whole: what is left of another one would not fit it."""
    held, said = settings.get("model"), layer.get("model")
    if isinstance(held, dict) and isinstance(said, dict) and "audio" in said:
        settings = {**settings, "model": {key: value for key, value in held.items() if key != "audio"}}
    return merge(settings, layer)


def main(arguments: Sequence[str]) -> int:
    """Parse, train, say what came of it."""
    args = parser().parse_args(list(arguments))
    for plugin in args.plugin:
        add_plugin(plugin)
    settings, notes = settings_of(args)
    for note in notes:
        say(f"note       {note}")
    config = validate(PretrainConfig, settings)
    if args.expname and args.expdir:
        raise UsageError("-n names a run in result/pretrain, -p its whole folder: give one of them")
    if args.expname and (Path(args.expname).is_absolute() or ".." in Path(args.expname).parts):
        raise UsageError(f"-n {args.expname}: a name in result/pretrain is needed; a folder elsewhere goes behind -p")
    if args.expdir:
        folder = Path(args.expdir)
    elif args.past_exp and not args.expname:
        folder = run_path(args.past_exp)
    else:
        folder = Path("result") / "pretrain" / (args.expname or objectives[config.objective].name)
    from headwater.train.pretrain import pretrain

    result = pretrain(config, folder=folder, device=args.device, fresh=args.fresh, dry_run=args.dry_run, say=say)
    if result is not None:
        report(result, folder)
    return 0


def report(result: dict[str, Any], folder: Path) -> None:
    """The loss on speakers held out, with its interval, and what to do next."""
    from headwater.metrics import Metric

    for split, group in result["metrics"].items():
        for name, content in group.items():
            metric = Metric.from_json(content)
            over = f", {metric.clusters} speakers" if metric.clusters not in (None, metric.n) else ""
            say(f"{split:<10} {name} {metric.describe()}, n = {metric.n}{over}")
    say(f"result     {folder / 'result.json'}; {folder / 'plots'} shows it")
    say(f"next       python run_downstream.py -u ckpt:{folder} -d phone --data YOUR_DATA")
