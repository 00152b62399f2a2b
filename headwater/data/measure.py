"""The length of every utterance, from the headers of the files, and which files cannot be used."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.data.corpus import Utterance
from headwater.data.features import count_frames, features_of_file, is_features, num_samples, read_features
from headwater.errors import DataError
from headwater.progress import progress

if TYPE_CHECKING:
    import numpy as np

    from headwater.audio import AudioInfo

_SHOWN = 5
_BLOCK = 4096  # bytes
Skipped = tuple[str, str, str]  # id, path, reason


def measure(
    utterances: Sequence[Utterance],
    *,
    sample_rate: int = 16000,
    resample: bool = False,
    channel: str | int = "single",
    skip_bad: bool = False,
    decode: bool = True,
) -> tuple[tuple[Utterance, ...], np.ndarray, list[Skipped]]:
    """The usable utterances in their order, their samples at `sample_rate` (int64), and (id, path, reason) of those
    left out. A mixture is usable where all its parts are.

    Headers are read by a few threads, each file once. What is wrong inside a file shows itself only when it is decoded:
    `headwater.audio.read` says so then. To leave such files out, too, `skip_bad` decodes every file once, unless
    `decode` is False: then the caller looks after them.

    Raises
    ------
    DataError: files that are missing, unreadable, empty or not of this rate and channel, or too short for their part;
        the first five are named. With `skip_bad` they are left out, and only a corpus without any usable utterance is
        an error.
    """
    import numpy as np

    paths = list(dict.fromkeys(file.path for utterance in utterances for file in utterance.files))
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        headers = dict(
            zip(paths, progress(pool.map(_header, paths), total=len(paths), what="reading audio headers"), strict=True)
        )
    usable: list[Utterance] = []
    lengths: list[int] = []
    skipped: list[Skipped] = []
    for utterance in utterances:
        found = _length(utterance, headers, sample_rate, resample, channel)
        if isinstance(found, int):
            usable.append(utterance)
            lengths.append(found)
        else:
            where = utterance.mixture.where if utterance.mixture is not None else None
            skipped.append((utterance.id, str(utterance.path), found if where is None else f"{where}: {found}"))
    if skip_bad and decode:
        usable, lengths = _decodable(usable, lengths, skipped, sample_rate, resample, channel)
    if skipped and (not skip_bad or not usable):
        shown = "".join(f"\n  {reason}" for _, _, reason in skipped[:_SHOWN])
        more = f"\n  and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
        advice = (
            ""
            if skip_bad
            else "\nmend or remove them, or leave them out with --skip-bad-audio (-o data.skip_bad_audio=true)"
        )
        raise DataError(f"{len(skipped)} of {len(utterances)} utterances cannot be used:{shown}{more}{advice}")
    return tuple(usable), np.array(lengths, dtype=np.int64), skipped


def audio_sha256(utterances: Sequence[Utterance]) -> str:
    """A hash of what the files of these utterances hold, by id: their sizes, and a block from the start, middle and end of each.

    Two versions of a corpus, one clean and one with noise, have the same names, labels and lengths; a few blocks tell them apart at the cost of a header.
    """
    paths = list(dict.fromkeys(file.path for utterance in utterances for file in utterance.files))
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        blocks = dict(
            zip(paths, progress(pool.map(_blocks, paths), total=len(paths), what="hashing audio"), strict=True)
        )
    digest = hashlib.sha256()
    for utterance in sorted(utterances, key=lambda utterance: utterance.id):
        digest.update(utterance.id.encode() + b"\0" + b"".join(blocks[file.path] for file in utterance.files))
    return digest.hexdigest()


def _blocks(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest = hashlib.sha256(str(size).encode())
            for place in (0, size // 2, max(0, size - _BLOCK)):
                file.seek(place)
                digest.update(file.read(_BLOCK))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    return digest.digest()


def _header(path: Path) -> AudioInfo | str:
    """The header, or what is wrong. Features stand for the sound they were made of."""
    from headwater import audio

    try:
        if is_features(path):
            about = features_of_file(path)
            return audio.AudioInfo(num_samples(count_frames(path, about), about), about.sample_rate, 1)
        return audio.info(path)
    except DataError as error:
        return str(error)


def _decodable(
    utterances: list[Utterance],
    lengths: list[int],
    skipped: list[Skipped],
    sample_rate: int,
    resample: bool,
    channel: str | int,
) -> tuple[list[Utterance], list[int]]:
    """Those that can be decoded; the others join `skipped`."""
    from headwater import audio

    def fault(utterance: Utterance) -> str | None:
        try:
            for file in utterance.files:
                if is_features(file.path):
                    read_features(file.path)
                else:
                    audio.read(
                        file.path,
                        start=file.start,
                        end=file.end,
                        sample_rate=sample_rate,
                        resample=resample,
                        channel=channel,  # type: ignore[arg-type]
                    )
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        faults = list(progress(pool.map(fault, utterances), total=len(utterances), what="decoding audio"))
    skipped += [(one.id, str(one.path), text) for one, text in zip(utterances, faults, strict=True) if text is not None]
    good = [number for number, text in enumerate(faults) if text is None]
    return [utterances[number] for number in good], [lengths[number] for number in good]


def _length(
    utterance: Utterance,
    headers: Mapping[Path, AudioInfo | str],
    sample_rate: int,
    resample: bool,
    channel: str | int,
) -> int | str:
    """Samples of an utterance at `sample_rate`, or what is wrong with it."""
    sizes: list[int] = []
    for file in utterance.files:
        header = headers[file.path]
        if isinstance(header, str):
            return header
        if (reason := _objection(file, header, sample_rate, resample, channel)) is not None:
            return reason
        if utterance.mixture is not None and is_features(file.path):
            return f"{file.path} holds features, and {utterance.id} is mixed from sound"
        sizes.append(_num_samples(file, header, sample_rate))
    if utterance.mixture is None:
        return sizes[0]
    if utterance.mixture.stored:
        for file, size in zip(utterance.files, sizes, strict=True):
            if size != sizes[0]:
                return f"{file.path} has {size} samples, and its mixture {utterance.path} has {sizes[0]}: they must be equally long"
    try:
        return utterance.mixture.piece(sizes[0]) if utterance.mixture.stored else utterance.mixture.samples(sizes)
    except DataError as error:
        return f"{utterance.id}: {error}"


def _objection(
    utterance: Utterance, header: AudioInfo, sample_rate: int, resample: bool, channel: str | int
) -> str | None:
    """Why `headwater.audio.read` would refuse this utterance, as far as its header tells."""
    if is_features(utterance.path):
        if utterance.start is None and utterance.end is None:
            return None
        return f"{utterance.path} holds features, which are read as a whole: {utterance.id} cannot be a part of it"
    if header.sample_rate != sample_rate and not resample:
        return f"{utterance.path} has a sample rate of {header.sample_rate} Hz, but {sample_rate} Hz is needed (-o data.resample=true resamples)"
    if channel == "single" and header.channels > 1:
        return f"{utterance.path} has {header.channels} channels (choose with -o data.channel=mean|0|1)"
    if isinstance(channel, int) and channel >= header.channels:
        return f"{utterance.path} has {header.channels} channel(s), so there is no channel {channel} (they are counted from 0)"
    first, last = _part(utterance, header)
    if not 0 <= first < last <= header.num_samples:
        start, end = utterance.start or 0.0, "the end" if utterance.end is None else f"{utterance.end:g} s"
        return f"{utterance.path} is {header.num_samples / header.sample_rate:g} s long: {utterance.id} from {start:g} s to {end} lies outside or is empty"
    if _num_samples(utterance, header, sample_rate) == 0:
        return f"{utterance.path} leaves no sample of {utterance.id} at {sample_rate} Hz"
    return None


def _part(utterance: Utterance, header: AudioInfo) -> tuple[int, int]:
    first = 0 if utterance.start is None else round(utterance.start * header.sample_rate)
    last = header.num_samples if utterance.end is None else round(utterance.end * header.sample_rate)
    return first, last


def _num_samples(utterance: Utterance, header: AudioInfo, sample_rate: int) -> int:
    """Samples that `headwater.audio.read` returns: soxr rounds the resampled length, halves upwards."""
    first, last = _part(utterance, header)
    return (2 * (last - first) * sample_rate + header.sample_rate) // (2 * header.sample_rate)
