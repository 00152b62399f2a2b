"""`headwater convert`: checkpoints of fairseq and S3PRL, without either of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from headwater.errors import DataError


def main(arguments: Sequence[str]) -> int:
    """Write the directory; say what it is, what was left out, and how to load it."""
    parser = argparse.ArgumentParser(
        prog="headwater convert",
        description="Write a checkpoint of fairseq or S3PRL as a directory of safetensors, which transformers loads, too, where it has such a model "
        "(wav2vec 2.0, HuBERT, WavLM, UniSpeech-SAT, data2vec). Nothing in the file is run.",
        allow_abbrev=False,
    )
    parser.add_argument("source", type=Path, metavar="FILE", help="a checkpoint")
    parser.add_argument("target", type=Path, metavar="OUT", help="a directory to make")
    parser.add_argument(
        "-u", "--upstream", metavar="NAME", help="what OUT is to be loaded as; found from the file by default"
    )
    parser.add_argument("--force", action="store_true", help="overwrite")
    args = parser.parse_args(list(arguments))
    print(_converted(args.source, args.target, args.upstream, args.force))
    return 0


def _converted(source: Path, target: Path, upstream: str | None, force: bool) -> str:
    from headwater.hf.convert import convert
    from headwater.pretrained.convert import convert as convert_own
    from headwater.pretrained.convert import own_card

    card = own_card(source, upstream) if upstream else None
    if card is None:
        try:
            return convert(source, target, upstream=upstream, force=force)
        except DataError:
            card = own_card(source) if upstream is None and source.is_file() else None
            if card is None:
                raise
    return convert_own(source, target, card, force=force)
