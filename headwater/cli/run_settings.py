"""What `run_downstream.py` is told: its flags, and the settings that they make over YAML files and the task's card."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from headwater.cli import flags, s3prl
from headwater.cli.names import is_file, recipe_path, run_path
from headwater.errors import UsageError
from headwater.registry import Card, downstreams, upstreams
from headwater.settings import merge, parse_overrides, read_recipe, read_yaml

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
    flags.upstream_flag(what)
    what.add_argument("-d", "--downstream", metavar="NAME", help="the task")
    flags.model_flags(what)
    flags.layer_flags(what, "learned weighted sum")
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
    flags.plugin_flag(what, "an upstream or task")
    grid_flags(top)
    data = top.add_argument_group("data")
    flags.data_flag(data)
    flags.utterance_flags(data, skipped="; the result says how many")
    how = top.add_argument_group("settings and results")
    how.add_argument(
        "-c", "--config", metavar="FILE", help="YAML with settings, or the name of a recipe in config/downstream/TASK"
    )
    how.add_argument("-v", "--downstream_variant", metavar="NAME", help="a recipe in config/downstream/TASK, by name")
    flags.override_flag(how)
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
    flags.budget_flag(how, "all that is kept")
    flags.cache_dtype_flag(how, "the result states")
    flags.extract_dtype_flag(
        how, "bfloat16: a faster encoder where the device has it, with an error that the result states"
    )
    how.add_argument("--fresh", action="store_true", help="start over where a run of these settings exists")
    how.add_argument("--bundle", action="store_true", help="put the frozen upstream's weights into the run folder, too")
    how.add_argument(
        "--dry-run", action="store_true", help="check everything and show the plan; train and write nothing"
    )
    how.add_argument("--seed", type=int, help="of initialisation, data order and dropout (default 1337)")
    flags.device_flag(how)
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
    said = [read_yaml(args.config)] if args.config is not None and is_file(args.config) else []
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
    asked = [base, *recipes, {"upstream": {"name": upstream}, "downstream": name}, settings_of_flags(args), overrides]
    return merge(*_defaults(card, demo=_path_in(*asked) is None), *asked), notes + more


def _defaults(card: Card, *, demo: bool) -> list[dict[str, Any]]:
    """What a task's card says of its settings."""
    recipe = [read_recipe(recipe_path(card.recipe, card.folder.name))] if card.recipe is not None else []
    return [*recipe, card.config, *([card.demo_config] if demo else [])]


def _path_in(*layers: dict[str, Any]) -> str | None:
    """The data that settings name; None stands for the demo."""
    data = merge(*layers).get("data")
    return data.get("path") or data.get("trials") if isinstance(data, dict) else None


def settings_of_flags(args: argparse.Namespace) -> dict[str, Any]:
    """What flags say, in settings; a flag that was not given says nothing."""
    if args.weighted_sum and (
        args.upstream_layer_selection is not None or args.upstream_feature_selection == "last_hidden_state"
    ):
        raise UsageError("--weighted_sum asks for all layers, -l and -s last_hidden_state for one: give one of them")
    upstream = flags.given(
        config=read_yaml(args.upstream_model_config) if args.upstream_model_config is not None else None,
        ckpt=args.upstream_ckpt,
        selection="hidden_states" if args.weighted_sum else args.upstream_feature_selection,
        layer=args.upstream_layer_selection,
        lr=args.upstream_lr,
        normalize=args.upstream_feature_normalize or None,
        trainable=args.upstream_trainable or None,
    )
    store = flags.given(
        cache=False if args.no_cache else None,
        budget_gib=args.cache_budget,
        dtype=args.cache_dtype,
        extract_dtype=args.extract_dtype,
    )
    lrs = rates_of(args.lr_grid) if args.lr_grid is not None else None
    grid = flags.given(layers=args.layers, seeds=args.seeds, lrs=lrs)
    single = flags.given(seed=args.seed, probe=args.probe)
    return {"upstream": upstream, "data": flags.data_settings(args), "store": store, "grid": grid, **single}


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
