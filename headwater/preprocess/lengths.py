"""S3PRL's lists of lengths for batching: a CSV for each subset of a corpus, the longest utterance first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from headwater.data.corpus import Utterance, relative
from headwater.data.measure import measure
from headwater.errors import DataError
from headwater.preprocess.acoustic import SAMPLE_RATE
from headwater.preprocess.folder import length_table
from headwater.results.files import write_bytes


def write_lengths(
    chosen: Sequence[tuple[Utterance, str]], root: Path, folder: Path, *, skip_bad: bool
) -> tuple[list[Path], list[str]]:
    """`GROUP.csv` with the paths below `root` and the lengths in samples at 16 kHz, from the headers. Returns the files, and what is wrong with audio left out.

    Raises DataError for a group that cannot be the name of a file, and for audio that cannot be used; with `skip_bad` that is left out.
    """
    for utterance, group in chosen:
        if "/" in group or "\\" in group or "\0" in group:
            raise DataError(f"the subset {group!r} of {utterance.id!r} cannot be the name of a file; rename it")
    utterances, lengths, skipped = measure(
        [utterance for utterance, _ in chosen],
        sample_rate=SAMPLE_RATE,
        resample=True,
        channel="mean",
        skip_bad=skip_bad,
    )
    group_of = {utterance.id: group for utterance, group in chosen}
    rows: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for utterance, length in zip(utterances, lengths.tolist(), strict=True):
        rows[group_of[utterance.id]].append((relative(utterance.path, root), length))
    files = {group: folder / f"{group}.csv" for group in sorted(rows)}
    for group, file in files.items():
        write_bytes(file, length_table(rows[group]).encode())
    return list(files.values()), [reason for _, _, reason in skipped]
