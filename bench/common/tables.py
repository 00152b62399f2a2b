"""What tables of runs on real speech share: the command line, which rows are this call's, and that no finished run is made again."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from headwater.cli.run import main as run
from headwater.cli.shell import guarded

Rows = Mapping[str, list[str]]  # what a row is called -> what stands on the command line of its run


def arguments(doc: str | None, models: Sequence[str]) -> argparse.ArgumentParser:
    """The flags that all have; `models` are the pretrained ones when none are named."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=list(models))
    parser.add_argument("--systems", nargs="*", help="only these rows")
    parser.add_argument("--part", type=_part, default=(0, 1), metavar="I/N")
    parser.add_argument("--only-table", action="store_true", help="of the runs that are finished; nothing is run")
    return parser


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; of two they are 0/2 and 1/2")
    return int(part), int(parts)


def asked(rows: Rows, parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, list[str]]:
    """The rows of --systems, or all. A name that is none of theirs ends the program."""
    if unknown := [name for name in args.systems or () if name not in rows]:
        parser.error(f"--systems: there is no row {', '.join(unknown)}, but {', '.join(rows)}")
    return {name: line for name, line in rows.items() if not args.systems or name in args.systems}


def mine(rows: Rows, args: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """The rows whose runs this call makes: of --part I/N every Nth from I on."""
    part, parts = args.part
    return [] if args.only_table else list(rows.items())[part::parts]


def finished(folder: Path) -> bool:
    return (folder / "result.json").is_file()


def made(folder: Path, words: Sequence[str]) -> bool:
    """Whether the run of these words is in its folder, where it is made unless it is finished."""
    return finished(folder) or guarded(run, [*words, "-p", str(folder)]) == 0


def spread(values: Sequence[float]) -> str:
    """The least and the greatest of several seeds."""
    return f"   seeds {min(values):.2f} to {max(values):.2f}" if len(values) > 1 else ""
