"""`headwater export`: weights of Mockingjay's family between our files and S3PRL's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Write the file; say what it is and how to load it."""
    parser = argparse.ArgumentParser(
        prog="headwater export",
        description="Write a pretrained model as S3PRL's present code loads it (.ckpt), or a checkpoint of S3PRL as ours (.safetensors).",
        allow_abbrev=False,
    )
    parser.add_argument("source", type=Path, metavar="RUN_OR_FILE", help="a pretraining run, or a weight file")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="FILE.ckpt or FILE.safetensors")
    parser.add_argument(
        "-u", "--upstream", metavar="NAME", help="what a checkpoint of S3PRL, which does not say it, is of: tera, ..."
    )
    parser.add_argument("--half", action="store_true", help="float16, in half the bytes (.safetensors)")
    parser.add_argument("--force", action="store_true", help="overwrite")
    args = parser.parse_args(list(arguments))
    from headwater.mam.export import export

    print(export(args.source, args.to, upstream=args.upstream, half=args.half, force=args.force))
    return 0
