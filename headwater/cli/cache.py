"""`headwater cache ls|prune|verify`: what is kept of frozen features."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

EPILOG = """Features lie in HEADWATER_STORE, or HEADWATER_CACHE/features; docs/store.md explains what.
A bank is one upstream with its weights, settings and sources; a number's first digits name it."""


def main(arguments: Sequence[str]) -> int:
    """List, make room, or check."""
    top = argparse.ArgumentParser(
        prog="headwater cache",
        description="Frozen features that are kept on disk.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="ls|prune|verify")
    verbs.add_parser("ls", help="what is kept, the most valuable first")
    prune = verbs.add_parser("prune", help="remove the least valuable shards, or a bank")
    prune.add_argument("banks", nargs="*", metavar="BANK", help="only these, each whole")
    prune.add_argument("--budget", type=float, metavar="GIB", help="until no more than this is left")
    prune.add_argument("--days", type=float, metavar="N", help="what nobody has used for N days")
    prune.add_argument("--all", action="store_true", help="everything")
    verbs.add_parser("verify", help="read everything, and remove what is damaged")
    args = top.parse_args(list(arguments))
    if args.verb == "ls":
        return _list()
    if args.verb == "verify":
        return _verify()
    return _prune(args)


def _list() -> int:
    from headwater.paths import store_root
    from headwater.store.plan import size
    from headwater.store.store import Store, about, held_in

    store = Store(store_root())
    total = 0
    for folder in sorted(store.banks(), key=lambda folder: -sum(shard.value for shard in held_in(folder))):
        said, shards = about(folder), held_in(folder)
        bytes_ = sum(shard.size for shard in shards)
        total += bytes_
        forms = " and ".join(
            f"{len(part)} of {form}"
            for form in ("frames", "mean")
            if (part := [shard for shard in shards if shard.path.name.startswith(f"{form}-")])
        )
        last = max((shard.used for shard in shards), default=None)
        used = f"; last used {time.strftime('%Y-%m-%d', time.localtime(last))}" if last is not None else ""
        print(
            f"{folder.name[:12]}  {said.get('upstream', 'unknown'):<24} {said.get('dtype', ''):<8} {size(bytes_):>9}  "
            f"shards: {forms or 'none'}{used}"
        )
    print(f"{size(total)} in {store.root} (budget {size(store.budget)})")
    return 0


def _prune(args: argparse.Namespace) -> int:
    from headwater.errors import HeadwaterError, UsageError
    from headwater.paths import store_root
    from headwater.store.plan import size
    from headwater.store.store import DAY, Store

    if args.all + bool(args.banks) + (args.days is not None) + (args.budget is not None) != 1:
        raise UsageError("say what goes: --budget GIB, --days N, --all, or the banks by name (`headwater cache ls`)")
    for flag, number in (("--budget", args.budget), ("--days", args.days)):
        if number is not None and not number >= 0:  # NaN, too
            raise UsageError(f"{flag} {number:g}: 0 or more")
    store = Store(store_root(), (args.budget or 0) * 2**30)
    try:
        if args.budget is not None:
            gone = store.make_room(0)
        else:
            chosen = {_named(store.banks(), name) for name in args.banks} if args.banks else set(store.banks())
            since = time.time() - (args.days or 0) * DAY
            gone = [shard for shard in store.shards() if shard.path.parent in chosen and shard.used <= since]
            for shard in gone:
                shard.path.unlink(missing_ok=True)
        store.tidy()
    except OSError as error:
        raise HeadwaterError(f"{error.filename or store.root}: cannot be removed ({error.strerror})") from None
    print(f"removed {len(gone)} shard(s), {size(sum(shard.size for shard in gone))}")
    return 0


def _named(banks: Sequence[Path], name: str) -> Path:
    from headwater.errors import UsageError

    found = [folder for folder in banks if folder.name.startswith(name)]
    if len(found) != 1:
        raise UsageError(f"{name!r} names {len(found)} banks; `headwater cache ls` lists them")
    return found[0]


def _verify() -> int:
    from headwater.paths import store_root
    from headwater.store.store import Store

    store = Store(store_root(), say=print)
    checked, damaged = store.verify()
    print(f"{checked} shard(s) checked, {damaged} damaged")
    return 1 if damaged else 0
