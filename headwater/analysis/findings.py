"""What an analysis leaves behind: its numbers as JSON, JSON lines and CSV, its pictures, and a page that shows them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headwater.errors import UsageError
from headwater.metrics import Metric
from headwater.results.files import write_bytes, write_json, write_rows
from headwater.results.page import bullets, escaped, figure, page, section, table

Cell = str | int | float | None


@dataclass(frozen=True)
class Findings:
    """An analysis.

    summary: sentences that say what was asked. head, body: the table of the answer. images: by file name. facts: what `analysis.json` holds besides.
    rows: one a scored utterance, where there are any. notes: what must be known about the numbers.
    """

    kind: str
    title: str
    summary: list[str]
    head: Sequence[str]
    body: Sequence[Sequence[Cell]]
    images: Mapping[str, bytes]
    facts: Mapping[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


IMAGES = {"lnsr": ("lnsr.svg",), "attention": ("attention.png", "heads.svg"), "layers": ("layers.svg",)}


def check_folder(folder: Path, kind: str) -> None:
    """`UsageError` where an analysis of this kind cannot write to a folder: it holds other things, or may not be written to."""
    ours = {"analysis.json", f"{kind}.csv", "rows.jsonl", "report.html", *IMAGES[kind]}
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; an analysis needs a folder")
    parent = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(f"{parent}: cannot be written to; choose another folder with -p")
    strangers = sorted(child.name for child in folder.glob("[!.]*") if child.name not in ours)
    if strangers:
        raise UsageError(f"{folder} holds other things ({', '.join(strangers[:3])}); choose another folder with -p")


def write(findings: Findings, folder: Path) -> None:
    """All files of an analysis, each of them whole; `analysis.json` comes last."""
    write_bytes(folder / f"{findings.kind}.csv", _csv(findings).encode())
    if findings.rows:
        write_rows(folder / "rows.jsonl", findings.rows)
    for name, image in findings.images.items():
        write_bytes(folder / name, image)
    write_bytes(folder / "report.html", render(findings).encode())
    write_json(
        folder / "analysis.json", {"schema": 1, "kind": findings.kind, **findings.facts, "notes": findings.notes}
    )


def render(findings: Findings) -> str:
    """One self-contained page."""
    images = "".join(figure(Path(name).stem, image, Path(name).suffix) for name, image in findings.images.items())
    rows = [[shown(cell) for cell in row] for row in findings.body]
    summary = "".join(f"<p>{escaped(sentence)}</p>" for sentence in findings.summary)
    parts = [f'<div class="answer">{summary}</div>', images, section("Numbers", table(findings.head, rows))]
    return page(findings.title, "\n".join([*parts, section("Notes", bullets(findings.notes))]))


def interval_notes(metrics: Iterable[Metric]) -> list[str]:
    """What must be known about the intervals, each thing once."""
    return list(dict.fromkeys(metric.note for metric in metrics if metric.note))


def text_table(head: Sequence[str], body: Sequence[Sequence[Cell]]) -> list[str]:
    """Aligned lines for a terminal, words flush left, numbers flush right; `NAME_low` and `NAME_high` are left to the other forms."""
    columns = [number for number, name in enumerate(head) if not name.endswith(("_low", "_high"))]
    words = [any(isinstance(row[number], str) for row in body) for number in columns]
    rows = [[head[number] for number in columns], *([shown(row[number]) for number in columns] for row in body)]
    sizes = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(size) if word else cell.rjust(size) for cell, size, word in zip(row, sizes, words, strict=True)
        ).rstrip()
        for row in rows
    ]


def shown(cell: Cell) -> str:
    """A cell as people read it: four decimals."""
    return "" if cell is None else f"{cell:.4f}" if isinstance(cell, float) else str(cell)


def _csv(findings: Findings) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([findings.head, *findings.body])
    return buffer.getvalue()
