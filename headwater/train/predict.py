"""Answers for files, from a finished run."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from headwater.data.batching import plan_evaluation
from headwater.data.corpus import Utterance
from headwater.data.measure import measure
from headwater.errors import DataError, UsageError
from headwater.results.files import write_bytes
from headwater.train.loop import autocast
from headwater.train.parts import Prepared
from headwater.train.probing import seconds_of
from headwater.train.task import Item

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


def audio_files(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """(name, file) of files, and of all audio below folders in sorted order. `DataError` for a missing path or a folder without audio."""
    found: list[tuple[str, Path]] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in SUFFIXES
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
            )
            if not inside:
                raise DataError(f"{path}: no audio files below it ({', '.join(SUFFIXES)})")
            found += [(str(file), file) for file in inside]
        elif path.is_file():
            found.append((str(path), path))
        else:
            raise DataError(f"{path}: no such file or folder")
    return list(dict.fromkeys(found))


def predict(parts: Prepared, paths: Sequence[Path]) -> list[dict[str, Any]]:
    """One row a file, in the order given."""
    data, rate = parts.config.data, parts.task.spec.sample_rate
    utterances = [Utterance(id=name, path=file) for name, file in audio_files(paths)]
    good, samples, skipped = measure(
        utterances, sample_rate=rate, resample=data.resample, channel=data.channel, skip_bad=data.skip_bad_audio
    )
    for name, _, reason in skipped:
        print(f"skipped {name}: {reason}", file=sys.stderr)
    items = [Item(utterance, int(count)) for utterance, count in zip(good, samples, strict=True)]
    plan = plan_evaluation(
        seconds_of(items, rate), size=parts.config.batch.size, max_seconds=parts.config.batch.seconds
    )
    rows: dict[str, dict[str, Any]] = {}
    with torch.no_grad():
        for ready in parts.feed([[items[index] for index in batch] for batch in plan]):
            with autocast(parts.config, parts.device):
                output, _ = parts.probe(ready.states, ready.lengths, ready.batch.inputs, ready.x)
            rows.update((row["id"], row) for row in parts.task.predict(output, ready.batch))
    return [rows[item.id] for item in items]


def check_name(out: Path | None) -> None:
    """`UsageError` for a file that is called neither .jsonl nor .csv."""
    if out is not None and out.suffix not in (".jsonl", ".csv"):
        raise UsageError(f"--out {out}: name it .jsonl or .csv")


def write_predictions(rows: Sequence[dict[str, Any]], out: Path | None) -> None:
    """JSON lines, or CSV where the file is called so (lists joined by blanks); to standard output without a file."""
    check_name(out)
    if out is not None and out.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["id"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()}
            for row in rows
        )
        write_bytes(out, text.getvalue().encode())
        return
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if out is None:
        sys.stdout.write(lines)
    else:
        write_bytes(out, lines.encode())
