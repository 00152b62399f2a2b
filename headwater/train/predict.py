"""Answers for files, from a finished run."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headwater.audio.io import blocks
from headwater.data.batching import plan_evaluation
from headwater.data.corpus import Utterance
from headwater.data.measure import measure
from headwater.errors import DataError, UsageError
from headwater.results.answers import Answers, signals_of
from headwater.results.files import write_bytes
from headwater.train.feed import Heard, Ready
from headwater.train.loop import autocast
from headwater.train.parts import Prepared
from headwater.train.probing import seconds_of
from headwater.train.task import Item, Sounds, make_batch
from headwater.train.windows import Block, Windows

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


def audio_files(paths: Sequence[Path], besides: Sequence[str] = ()) -> list[tuple[str, Path]]:
    """(name, file) of files, and of all audio below folders in sorted order. `DataError` for a missing path or a folder without audio.

    besides: suffixes of other files that are taken, too.
    """
    suffixes = (*SUFFIXES, *besides)
    found: list[tuple[str, Path]] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in suffixes
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
            )
            if not inside:
                raise DataError(f"{path}: no audio files below it ({', '.join(suffixes)})")
            found += [(str(file), file) for file in inside]
        elif path.is_file():
            found.append((str(path), path))
        else:
            raise DataError(f"{path}: no such file or folder")
    return list(dict.fromkeys(found))


@torch.no_grad()
def predict(parts: Prepared, paths: Sequence[Path], answers: Path | None = None) -> list[dict[str, Any]]:
    """One row a file, in the order given. answers: the folder that answers which are sound are written to, with a table of these rows.

    Raises `UsageError` where the task cannot predict, or answers with sound and there is no folder for it.
    """
    task, data, rate = parts.task, parts.config.data, parts.task.spec.sample_rate
    if task.unpredictable is not None:
        raise UsageError(task.unpredictable)
    if task.spec.level == "signal" and answers is None:
        raise UsageError("this task answers with sound: give a folder for it with --out FOLDER")
    found = audio_files(paths, task.frame_suffixes)
    folder = Answers(answers, dict(found)) if answers is not None else None
    everything = [Utterance(id=name, path=file) for name, file in found]
    framed = [utterance for utterance in everything if utterance.path.suffix.lower() in task.frame_suffixes]
    utterances = [utterance for utterance in everything if utterance.path.suffix.lower() not in task.frame_suffixes]
    good, samples, skipped = measure(
        utterances, sample_rate=rate, resample=data.resample, channel=data.channel, skip_bad=data.skip_bad_audio
    )
    for name, _, reason in skipped:
        print(f"skipped {name}: {reason}", file=sys.stderr)
    items = [
        Item(utterance, int(count), inputs=task.inputs(utterance))
        for utterance, count in zip(good, samples, strict=True)
    ]
    rows: dict[str, dict[str, Any]] = {}
    windows = task.windows
    long = [item for item in items if windows is not None and item.num_samples > windows.size]
    whole = [item for item in items if windows is None or item.num_samples <= windows.size]
    plan = plan_evaluation(
        seconds_of(whole, rate), size=parts.config.batch.size, max_seconds=parts.config.batch.seconds
    )
    with folder or nullcontext():
        for ready in parts.feed([[whole[index] for index in batch] for batch in plan]):
            for row in answered(parts, ready):
                rows[row["id"]] = folder.write(row) if folder is not None else row
        for utterance in framed:
            for row in answered(parts, of_frames(parts, utterance)):
                rows[row["id"]] = folder.write(row) if folder is not None else row
        for item in long:
            assert folder is not None and windows is not None
            stretches = task.join(blocks_of(parts, item, windows), windows)
            rows[item.id] = folder.write_stretches(item.id, stretches, rate, item.num_samples)
        ordered = [rows[utterance.id] for utterance in everything if utterance.id in rows]
        if folder is not None:
            folder.table(ordered)
    for note in folder.notes if folder is not None else ():
        print(f"note: {note}", file=sys.stderr)
    return ordered


def of_frames(parts: Prepared, utterance: Utterance) -> Ready:
    """A file of frames in the place of what the upstream gives."""
    frames, samples, signals = parts.task.frames(utterance.path)
    heard = Sounds({name: signal.to(parts.device) for name, signal in signals.items()})
    lengths = torch.tensor([len(frames)], device=parts.device)
    scale = parts.feed.scale
    batch = make_batch(
        [Item(utterance, samples)],
        lengths,
        round(parts.upstream.stride * scale),
        parts.upstream.offset * scale,
        [heard],
    )
    return Ready(batch, lengths, states=(frames[None].to(parts.device),))


def answered(parts: Prepared, ready: Ready) -> list[dict[str, Any]]:
    """What the task says of a batch."""
    with autocast(parts.config, parts.device):
        output, _ = parts.probe(ready.states, ready.lengths, ready.batch.inputs, ready.x)
    return parts.task.predict(output, ready.batch)


def blocks_of(parts: Prepared, item: Item, windows: Windows) -> Iterator[Block]:
    """The windows of a long file with their answers, read, computed and given out one batch after the other."""
    data, batch = parts.config.data, parts.config.batch
    stream = blocks(
        item.utterance.path,
        windows.hop,
        sample_rate=windows.rate,
        resample=data.resample,
        channel=data.channel,
    )
    together = max(1, min(batch.size, int(batch.seconds / windows.seconds)))
    waiting: deque[tuple[int, Tensor]] = deque()

    def groups() -> Iterator[list[Heard]]:
        cut = windows.cut(stream, item.num_samples)
        while group := list(islice(cut, together)):
            waiting.extend(group)
            yield [parts.feed.hears(replace(item, num_samples=len(wav)), wav) for _, wav in group]

    for ready in parts.feed.heard(groups()):
        for row in answered(parts, ready):
            yield Block(*waiting.popleft(), {name: signal.wav for name, signal in signals_of(row).items()})


def check_name(out: Path | None) -> None:
    """`UsageError` for a table that is called neither .jsonl nor .csv."""
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
