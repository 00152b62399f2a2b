"""Finished runs side by side: one row a run, or one row for all folds of a system.

Nothing but the run folders is read. Each metric in a `result.json` carries the declaration it was computed by, so
pooled folds are measured again, from all their rows, by the very function that measured each.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from headwater.errors import DataError, UsageError, nearest
from headwater.metrics.base import Metric, number
from headwater.metrics.measures import evaluate, measure_from_json
from headwater.metrics.rows import Row
from headwater.metrics.trials import TrialRows
from headwater.results.grid import spreads

TableFormat = Literal["text", "csv", "html"]

SCHEMA = 1
REQUIRED = ("schema", "status", "upstream", "downstream", "metrics", "seed")
LINES = 1 << 14  # of scores, read at a time
NARROWEST = 10  # characters left to a column of words when a table is squeezed


@dataclass(frozen=True)
class Entry:
    """One row of a table: a run, or the pooled folds of a system.

    metrics: by name, in the order of the run. spreads: their mean and standard deviation over seeds, and how many, where the run trained several.
    """

    upstream: str
    selection: str
    task: str
    seed: str
    metrics: dict[str, Metric]
    folders: tuple[Path, ...]
    spreads: Mapping[str, tuple[float, float, int]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """A short name for plots and sentences."""
        return f"{self.upstream}, {self.selection}"


def load_result(folder: str | Path) -> dict[str, Any]:
    """The `result.json` of a finished run.

    Raises DataError, naming the folder, file or key, when it is no finished run, is not JSON, or has another schema.
    """
    path = Path(folder) / "result.json"
    if not Path(folder).is_dir():
        raise DataError(f"{folder} is not a folder; give the folder of a finished run (it holds a result.json).")
    if not path.is_file():
        raise DataError(f"{folder} holds no result.json: the run has not finished, or this is not the folder of a run.")
    result = _parse(path.read_bytes(), str(path))
    if result.get("schema") != SCHEMA:
        raise DataError(
            f"{path} has the schema {result.get('schema')!r}; this version of Headwater reads schema {SCHEMA}."
        )
    for key in REQUIRED:
        if key not in result:
            raise DataError(f"{path} lacks the key {key!r}; run the evaluation again to write it whole.")
    for key in ("upstream", "downstream", "metrics"):
        if not isinstance(result[key], dict) or (key != "metrics" and "name" not in result[key]):
            raise DataError(f"{path}: the key {key!r} is incomplete; run the evaluation again to write it whole.")
    if result["status"] != "done":
        raise DataError(
            f"{path} has the status {result['status']!r}, not 'done': start the same command again to finish it."
        )
    return result


def load_metrics(folder: str | Path, split: str) -> dict[str, Metric]:
    """The metrics of one split of a finished run. Raises DataError, naming the splits there are, for any other."""
    found = load_result(folder)["metrics"]
    if split not in found:
        raise DataError(
            f"{folder} has no result on the split {split!r}.{nearest(split, list(found))} "
            f"It has {', '.join(found) or 'none'}."
        )
    try:
        return {name: Metric.from_json(content) for name, content in found[split].items()}
    except (DataError, TypeError, AttributeError) as error:
        raise DataError(f"{Path(folder) / 'result.json'}, metrics, {split}: {error}") from None


def read_scores(folder: str | Path, split: str) -> Sequence[Row]:
    """The rows of `scores/SPLIT.jsonl`, trials as columns. Raises DataError naming the file and the line that is not a JSON object."""
    path = Path(folder) / "scores" / f"{split}.jsonl"
    if not path.is_file():
        raise DataError(f"{path} does not exist; evaluate the run again (-m evaluate -e {folder}) to write its scores.")
    return TrialRows.of_rows(_chunks(path)) or [row for rows in _chunks(path) for row in rows]


def _chunks(path: Path) -> Iterator[list[dict[str, Any]]]:
    first = 1
    with open(path, "rb") as file:
        while lines := list(islice(file, LINES)):
            yield _rows(lines, path, first)
            first += len(lines)


def _rows(lines: list[bytes], path: Path, first: int) -> list[dict[str, Any]]:
    """The objects on some lines; one parse for all of them is several times as fast as one a line, which finds a fault."""
    with suppress(DataError, KeyError):
        there = [line for line in lines if line.strip()]
        found = _parse(b'{"rows": [' + b",".join(there) + b"]}", "")["rows"]
        if len(found) == len(there) and all(type(row) is dict for row in found):
            return list(found)
    return [_parse(line, f"{path}, line {i}") for i, line in enumerate(lines, first) if line.strip()]


def entries(folders: Sequence[str | Path], split: str = "test", pool: bool = False) -> list[Entry]:
    """The rows of the table as data, in the order of the folders (pooled: of the first fold of each system)."""
    if not folders:
        raise UsageError("A table needs at least one run folder.")
    runs = [_entry(Path(folder), split) for folder in folders]
    if not pool:
        return runs
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for run in runs:
        upstream = load_result(run.folders[0])["upstream"]
        system = (
            run.upstream,
            run.selection,
            run.task,
            str(upstream.get("weights_sha256")),
            str(upstream.get("fine_tuned")),
        )
        groups.setdefault(system, []).append(run)
    return [_pooled(group, split) for group in groups.values()]


def table(
    folders: Sequence[str | Path],
    format: TableFormat = "text",
    split: str = "test",
    pool: bool = False,
    width: int | None = None,
) -> str:
    """Finished runs as aligned text of at most `width` characters (None: the terminal), CSV, or one HTML page.

    With `pool`, the runs of one upstream, selection and task are folds: their rows are joined and measured together.
    Raises DataError when a folder is no finished run, lacks the split, or two folds score the same id.
    """
    if format not in get_args(TableFormat):
        raise UsageError(f"{format!r} is no format of a table; use one of {', '.join(get_args(TableFormat))}.")
    rows = entries(folders, split, pool)
    if format == "csv":
        return _csv(rows, split)
    if format == "html":
        return _html(rows, split)
    return _text(rows, width or shutil.get_terminal_size((100, 24)).columns)


def _parse(content: bytes, where: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        parsed = json.loads(content, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON ({error}); it may have been cut off or edited.") from None
    if not isinstance(parsed, dict):
        raise DataError(f"{where} holds {type(parsed).__name__}, where a JSON object is needed.")
    return parsed


def _entry(folder: Path, split: str) -> Entry:
    result = load_result(folder)
    upstream = result["upstream"]
    selection = str(upstream.get("selection", "")) + (", fine-tuned" if upstream.get("fine_tuned") else "")
    name, task, seed = str(upstream["name"]), str(result["downstream"]["name"]), str(result["seed"])
    metrics, over_seeds = load_metrics(folder, split), spreads(result, split)
    if count := max((n for _, _, n in over_seeds.values()), default=0):
        seed = f"{seed} to {int(seed) + count - 1}"
    return Entry(name, selection, task, seed, metrics, (folder,), over_seeds)


def _pooled(runs: Sequence[Entry], split: str) -> Entry:
    rows: list[Row] = []
    owner: dict[Any, Path] = {}
    folders = [run.folders[0] for run in runs]
    for folder in folders:
        for row in read_scores(folder, split):
            if (other := owner.setdefault(row.get("id"), folder)) is not folder:
                raise DataError(
                    f"The id {row.get('id')!r} is in the {split} scores of both {other} and {folder}. Pooling joins "
                    "folds, each tested on data of its own; leave it out to compare runs of one test set."
                )
            rows.append(row)
    measures = [_common_measure(runs, name) for name in runs[0].metrics]
    seeds = sorted({run.seed for run in runs}, key=lambda seed: (len(seed), seed))
    return replace(runs[0], seed=", ".join(seeds), spreads={}, metrics=evaluate(measures, rows), folders=tuple(folders))


def _common_measure(runs: Sequence[Entry], name: str) -> Any:
    """What all folds measured under `name`; its chance is given up where folds differ in it."""
    declared = []
    for run in runs:
        metric = run.metrics.get(name)
        if metric is None or metric.measure is None:
            raise DataError(
                f"{run.folders[0]} has no measure {name!r} that could be computed again; folds share theirs."
            )
        declared.append(dict(metric.measure))
    first = declared[0]
    if any(other.get("chance") != first.get("chance") for other in declared):
        declared = [{**other, "chance": None} for other in declared]
    for run, other in zip(runs, declared):
        if other != declared[0]:
            raise DataError(
                f"{runs[0].folders[0]} and {run.folders[0]} measure {name!r} in different ways; pool like runs."
            )
    return measure_from_json(declared[0])


def _columns(rows: Iterable[Entry]) -> list[str]:
    """The names of all metrics, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.metrics))


def _size(entry: Entry) -> str:
    """The number of scored rows: the same for all metrics of a split."""
    return " / ".join(dict.fromkeys(str(metric.n) for metric in entry.metrics.values()))


def _cell(metric: Metric | None, over_seeds: tuple[float, float, int] | None = None) -> str:
    """A number with its interval; of several seeds their mean and standard deviation instead."""
    if metric is None:
        return ""
    if over_seeds is not None:
        mean, sd, _ = over_seeds
        return f"{number(mean, metric.unit)} ± {number(sd, metric.unit)}"
    return metric.brief()


def _grid(rows: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """The head and the cells that text and HTML share."""
    folds = any(len(row.folders) > 1 for row in rows)
    names = _columns(rows)
    units = {name: row.metrics[name].unit for row in reversed(rows) for name in row.metrics}
    head = ["upstream", "selection", "task", "seed", *(["folds"] if folds else []), "n"]
    head += [f"{name} ({units[name]})" if units[name] else name for name in names]
    body = [
        [row.upstream, row.selection, row.task, row.seed, *([str(len(row.folders))] if folds else []), _size(row)]
        + [_cell(row.metrics.get(name), row.spreads.get(name)) for name in names]
        for row in rows
    ]
    return head, [[_printable(cell) for cell in cells] for cells in body]


def _notes(rows: Sequence[Entry]) -> list[str]:
    """What must be said beside the numbers, each with the row that it is about."""
    notes = []
    for row in rows:
        for name, metric in row.metrics.items():
            said = [metric.note] if metric.note else []
            if metric.includes_chance and metric.chance is not None:
                said.append(
                    f"the interval includes chance ({number(metric.chance, metric.unit)} {metric.unit}".rstrip() + ")"
                )
            if said:
                notes.append(_printable(f"{row.label}, {row.task}, {name}: {'; '.join(said)}"))
    return list(dict.fromkeys(notes))


def _text(rows: Sequence[Entry], width: int) -> str:
    tasks = list(dict.fromkeys(row.task for row in rows))
    if _breadth(*_grid(rows)) > width and len(tasks) > 1:
        lines = [line for task in tasks for line in [*_block([row for row in rows if row.task == task], width), ""]]
    else:
        lines = [*_block(rows, width), ""]
    single = [metric for row in rows for name, metric in row.metrics.items() if name not in row.spreads]
    footer = ["[ ]: 95 % interval"] if any(metric.ci95 for metric in single) else []
    footer += ["±: standard deviation over seeds"] if any(row.spreads for row in rows) else []
    notes = [
        line for note in _notes(rows) for line in textwrap.wrap(f"- {note}", max(width, 40), subsequent_indent="  ")
    ]
    return "\n".join([*lines, *footer, *notes]).rstrip() + "\n"


def _block(rows: Sequence[Entry], width: int) -> list[str]:
    """The lines of one table. One too wide says first what its rows share, then breaks intervals, then names."""
    head, body = _grid(rows)
    words = 3  # the first columns hold names, the others numbers
    lines = []
    if _breadth(head, body) > width:
        same = [i for i in range(1, words + 1) if len({cells[i] for cells in body}) == 1]
        if same:
            shared = ", ".join(f"{head[i]} {body[0][i]}" for i in same)
            lines = [*textwrap.wrap(f"all: {shared}", max(width, 40)), ""]
        keep = [i for i in range(len(head)) if i not in same]
        head, body = [head[i] for i in keep], [[cells[i] for i in keep] for cells in body]
        words -= sum(i < words for i in same)
    if _breadth(head, body) > width:
        head = [name.replace(" (", "\n(") for name in head]
        body = [[*cells[:words], *(cell.replace(" [", "\n[") for cell in cells[words:])] for cells in body]
    whole, limits = body, [_span(column) for column in zip(*body)][:words]
    while _breadth(head, body) > width and max(limits) > NARROWEST:
        widest = limits.index(max(limits))
        limits[widest] -= 1
        body = [
            ["\n".join(textwrap.wrap(cell, limit)) for cell, limit in zip(cells, limits)] + cells[words:]
            for cells in whole
        ]
    return lines + _aligned(head, body, words)


def _span(cells: Iterable[str]) -> int:
    return max(len(line) for cell in cells for line in (cell.splitlines() or [""]))


def _breadth(head: Sequence[str], body: Sequence[Sequence[str]]) -> int:
    return sum(_span(column) for column in zip(head, *body)) + 2 * (len(head) - 1)


def _aligned(head: Sequence[str], body: Sequence[Sequence[str]], words: int) -> list[str]:
    """Lines of text: the first `words` columns flush left, numbers flush right; a cell may have several lines."""
    sizes = [_span(column) for column in zip(head, *body)]
    lines = []
    for cells in [head, ["-" * size for size in sizes], *body]:
        parts = [cell.splitlines() or [""] for cell in cells]
        for i in range(max(map(len, parts))):
            at = [part[i] if i < len(part) else "" for part in parts]
            sides = [
                text.ljust(size) if k < words else text.rjust(size) for k, (text, size) in enumerate(zip(at, sizes))
            ]
            lines.append("  ".join(sides).rstrip())
    return lines


def _csv(rows: Sequence[Entry], split: str) -> str:
    names = _columns(rows)
    ends = ("", "_low", "_high", "_unit", "_chance")
    seeds = any(row.spreads for row in rows)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["upstream", "selection", "task", "split", "seed", "folds", "n", "clusters"]
                    + [name + end for name in names for end in ends]
                    + [name + end for name in names for end in ("_mean", "_sd", "_seeds") if seeds] + ["folder"])  # fmt: skip
    for row in rows:
        clusters = " / ".join(dict.fromkeys(str(metric.clusters) for metric in row.metrics.values()))
        cells: list[Any] = [
            row.upstream,
            row.selection,
            row.task,
            split,
            row.seed,
            len(row.folders),
            _size(row),
            clusters,
        ]
        for name in names:
            metric = row.metrics.get(name)
            low, high = (metric and metric.ci95) or (None, None)
            cells += [None] * len(ends) if metric is None else [metric.value, low, high, metric.unit, metric.chance]
        for name in names if seeds else ():
            cells += row.spreads.get(name, (None, None, None))
        writer.writerow([*cells, " ".join(map(str, row.folders))])
    return buffer.getvalue()


def _html(rows: Sequence[Entry], split: str) -> str:
    from headwater.results.page import page

    head, body = _grid(rows)
    parts = [
        '<div class="wide"><table><thead><tr>',
        *(f"<th>{html.escape(name)}</th>" for name in head),
        "</tr></thead><tbody>",
    ]
    parts += [
        "<tr>" + "".join(f'<td class="whole">{html.escape(cell)}</td>' for cell in cells) + "</tr>" for cells in body
    ]
    parts.append("</tbody></table></div><p>In brackets: 95 % interval.</p>")
    if any(row.spreads for row in rows):
        parts.append("<p>±: standard deviation over seeds.</p>")
    if notes := _notes(rows):
        parts.append("<ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>")
    return page(f"Results on {split}", "".join(parts) + "".join(_drawings(rows)))


def _drawings(rows: Sequence[Entry]) -> Iterable[str]:
    """Every metric of two or more runs of one task as dots with intervals."""
    from headwater.results.plots import interval_plot

    for task in dict.fromkeys(row.task for row in rows):
        group = [row for row in rows if row.task == task]
        for name in _columns(group):
            shown = [(row.label, row.metrics[name]) for row in group if name in row.metrics]
            if len(shown) > 1:
                image = base64.b64encode(interval_plot(shown, name=f"{task}: {name}")).decode()
                title = html.escape(f"{task}: {name} with 95 % intervals")
                yield f'<figure><img alt="{title}" src="data:image/svg+xml;base64,{image}"></figure>'


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
