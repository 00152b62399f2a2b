"""One progress bar for all slow loops, on stderr, once two seconds have gone by. Where nobody watches a terminal it says something every ten seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")


def bar(*, total: int | None, what: str, unit: str = "it", initial: int = 0, shown: bool = True) -> Any:
    """A tqdm bar that the caller updates, and uses as a context."""
    from tqdm import tqdm

    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=unit == "B",
        initial=initial,
        delay=2.0,
        mininterval=interval,
        disable=not shown,
    )


def progress(
    items: Iterable[Item], *, total: int | None, what: str, unit: str = "it", shown: bool = True
) -> Iterable[Item]:
    """`items` again, with a bar called `what`."""
    with bar(total=total, what=what, unit=unit, shown=shown) as counter:
        for item in items:
            yield item
            counter.update()
