"""`run_pretrain.py` and `headwater pretrain`: train an upstream with a registered objective."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from headwater.errors import UsageError
from headwater.registry import objectives


def main(arguments: Sequence[str]) -> int:
    """Find the objective. This version registers none yet: the objectives come with the models they train."""
    parser = argparse.ArgumentParser(prog="run_pretrain.py", description="Train an upstream.", allow_abbrev=False)
    parser.add_argument(
        "-u", "--upstream", metavar="NAME", required=True, help="the objective (`headwater ls objectives`)"
    )
    args, _ = parser.parse_known_args(arguments)
    if not objectives.names():
        raise UsageError(
            f"there is no pretraining objective {args.upstream!r}: this version of Headwater evaluates upstreams and trains none yet"
        )
    raise UsageError(f"the objective {objectives[args.upstream].name!r} cannot be trained by this version")
