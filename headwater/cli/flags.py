"""Flags that several commands have, each declared once, and what they say in settings."""

from __future__ import annotations

import argparse
from typing import Any


def upstream_flag(
    group: argparse._ActionsContainer,
    text: str = "the representation; ckpt:PATH is one that you pretrained",
    **how: Any,
) -> None:
    """`-u`; how: what argparse is told besides, such as `required`."""
    group.add_argument("-u", "--upstream", metavar="NAME", help=text, **how)


def model_flags(group: argparse._ActionsContainer, whose: str = "the upstream or its front-end") -> None:
    """`-k` and `-g`: the upstream's weights and settings."""
    add = group.add_argument
    add("-k", "--upstream_ckpt", metavar="FILE", help="weights: a file or a URL")
    add("-g", "--upstream_model_config", metavar="FILE", help=f"YAML with settings of {whose}")


def layer_flags(group: argparse._ActionsContainer, all_layers: str) -> None:
    """`-s` and `-l`: which hidden states are read."""
    add = group.add_argument
    kinds = ("hidden_states", "last_hidden_state")
    text = f"hidden_states ({all_layers}) or last_hidden_state"
    add("-s", "--upstream_feature_selection", metavar="KEY", choices=kinds, help=text)
    add("-l", "--upstream_layer_selection", metavar="N", type=int, help="one layer, from 0; negative from the end")


def plugin_flag(group: argparse._ActionsContainer, what: str) -> None:
    """`--plugin`."""
    text = f"a Python file or folder with {what} of yours"
    group.add_argument("--plugin", metavar="PATH", action="append", default=[], help=text)


def data_flag(group: argparse._ActionsContainer) -> None:
    """`--data`."""
    group.add_argument("--data", metavar="PATH", help="a CSV or a corpus folder; the demo corpus when not given")


def utterance_flags(
    group: argparse._ActionsContainer,
    limit: str = "at most N utterances of each split, for trying things out",
    skipped: str = "",
) -> None:
    """`--limit` and `--skip-bad-audio`: which of the data's utterances are read."""
    add = group.add_argument
    add("--limit", metavar="N", type=int, help=limit)
    add("--skip-bad-audio", action="store_true", help=f"go on without broken files{skipped}")


def budget_flag(group: argparse._ActionsContainer, what: str) -> None:
    """`--cache-budget`."""
    text = f"{what} may take so much; the least valuable goes first"
    group.add_argument("--cache-budget", metavar="GIB", type=float, help=text)


def cache_dtype_flag(group: argparse._ActionsContainer, error: str) -> None:
    """`--cache-dtype`; error: what is done with it."""
    text = f"float16: half the bytes, with an error that {error}"
    group.add_argument("--cache-dtype", choices=("float32", "float16"), help=text)


def extract_dtype_flag(group: argparse._ActionsContainer, text: str, default: str | None = None) -> None:
    """`--extract-dtype`."""
    group.add_argument("--extract-dtype", choices=("float32", "bfloat16"), default=default, help=text)


def override_flag(
    group: argparse._ActionsContainer,
    text: str = "one setting, such as optimizer.lr=1e-3; repeat it, or separate several by ,,",
) -> None:
    """`-o`."""
    group.add_argument("-o", "--override", metavar="KEY=VALUE", action="append", default=[], help=text)


def device_flag(group: argparse._ActionsContainer) -> None:
    """`--device`."""
    group.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")


def given(**settings: Any) -> dict[str, Any]:
    """Settings without those that are None: a flag that was not given says nothing."""
    return {name: value for name, value in settings.items() if value is not None}


def data_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What `--data`, `--limit` and `--skip-bad-audio` say of the section `data`."""
    return given(path=args.data, limit=args.limit, skip_bad_audio=args.skip_bad_audio or None)
