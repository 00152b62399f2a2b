"""Audio files in: WAV, FLAC, Ogg (Vorbis, Opus), MP3 and whatever else libsndfile decodes.

Nothing is mended in silence. Another rate, several channels, a cut-off file or a NaN is an error that names the file
and the way out.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from headwater.errors import DataError, UsageError

if TYPE_CHECKING:
    import soundfile

Seconds = float
Channel = Literal["single", "mean"] | int

# Written by programs that stream to a pipe and so cannot know the size (plain, SoX, ffmpeg).
_UNKNOWN_SIZES = (0, 0x7FFFF000, 0xFFFFFFFF)
_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255
# libsndfile's SF_COUNT_MAX stands for a stream whose header does not say its length.
_UNKNOWN_FRAMES = 2**62


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says: samples in each channel, samples a second, channels."""

    num_samples: int
    sample_rate: int
    channels: int

    @property
    def duration(self) -> Seconds:
        """Length in seconds."""
        return self.num_samples / self.sample_rate


def info(path: str | os.PathLike[str]) -> AudioInfo:
    """Length, rate and channels of an audio file, without decoding it where its header knows.

    Raises:
        DataError: the file is missing, unreadable, empty, or a WAV that was cut off.
    """
    path = Path(path)
    with _open(path) as file:
        return AudioInfo(_num_samples(file, path), file.samplerate, file.channels)


def read(
    path: str | os.PathLike[str],
    *,
    start: Seconds | None = None,
    end: Seconds | None = None,
    sample_rate: int = 16000,
    resample: bool = False,
    channel: Channel = "single",
) -> torch.Tensor:
    """The waveform of a file, or of the part from `start` to `end`: 1-D float32, full scale is [-1, 1].

    Args:
        start, end: seconds, rounded to the nearest sample of the file; the part is found by seeking.
        sample_rate: the rate wanted, in Hz.
        resample: convert other rates (`resampled`) instead of refusing them.
            A part is cut first, so its edges see silence, not their neighbours.
        channel: "single" refuses files of several channels; "mean" averages them; a number takes that one (from 0).

    Raises:
        DataError: missing, unreadable, empty or truncated file; NaN or infinite samples; a part outside the file;
            a rate or number of channels that the settings do not allow.
        UsageError: `channel` is none of the above.
    """
    if channel not in ("single", "mean") and (not isinstance(channel, int) or isinstance(channel, bool) or channel < 0):
        raise UsageError(
            f'data.channel is {channel!r}; it must be "single", "mean" or the number of a channel, from 0.'
        )
    path = Path(path)
    with _open(path) as file:
        _check_rate(path, file.samplerate, sample_rate, resample)
        wav = _finite(_select(_decode(file, path, start, end), channel, path), path)
        rate = file.samplerate
    if rate != sample_rate:
        wav = resampled(wav, rate, sample_rate)
        if not len(wav):
            raise DataError(f"{path}: nothing is left of this part after resampling from {rate} to {sample_rate} Hz.")
    return torch.from_numpy(np.ascontiguousarray(wav, dtype=np.float32))


def blocks(
    path: str | os.PathLike[str],
    size: int,
    *,
    sample_rate: int = 16000,
    resample: bool = False,
    channel: Channel = "single",
) -> Iterator[torch.Tensor]:
    """The waveform of a file in blocks of about `size` samples, for files that memory does not hold: together what `read` gives, within 1e-5 of full scale
    where it is resampled, and the same bits where it is not. The last block may be of any size.

    Raises as `read` does, in the turn of the block.
    """
    path = Path(path)
    with _open(path) as file:
        rate, left = file.samplerate, _num_samples(file, path)
        _check_rate(path, rate, sample_rate, resample)
        stream = None
        if rate != sample_rate:
            import soxr

            stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="VHQ")
        due = (2 * left * sample_rate + rate) // (2 * rate)  # as soxr rounds it
        while left:
            count = min(left, max(1, size * rate // sample_rate))
            wav = _finite(_select(_samples(file, path, count), channel, path), path)
            left -= count
            if stream is not None:
                wav = stream.resample_chunk(np.ascontiguousarray(wav), last=not left)
            if not left:
                wav = np.pad(wav[:due], (0, max(0, due - len(wav))))
            due -= len(wav)
            yield torch.from_numpy(np.array(wav, dtype=np.float32))


def resampled(wav: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """The waveform (samples,) at another rate in Hz, of the same dtype: soxr, quality VHQ."""
    import soxr

    samples: np.ndarray = soxr.resample(wav, rate, wanted, quality="VHQ")
    return samples


def _open(path: Path) -> soundfile.SoundFile:
    import soundfile

    if not path.is_file():
        raise DataError(f"{path} is {'a folder' if path.is_dir() else 'missing'}; an audio file is needed here.")
    try:
        _check_last_ogg_page(path)
        size_at = _check_riff_size(path)
        return soundfile.SoundFile(path if size_at is None else _with_size(path, size_at))
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{path} cannot be read as audio: {error}") from None


def _check_riff_size(path: Path) -> int | None:
    """libsndfile shortens a cut-off WAV without a word, so the size its header promises is compared with the file here.

    Returns where in the file the size of the sound stands if it was streamed with sizes of 0, which libsndfile takes
    for an empty file.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] not in (b"RIFF", b"RIFX") or head[8:] != b"WAVE":
            return None
        order = "<" if head[:4] == b"RIFF" else ">"
        (riff_size,) = struct.unpack(order + "I", head[4:8])
        total = path.stat().st_size
        while len(chunk := file.read(8)) == 8:
            (size,) = struct.unpack(order + "I", chunk[4:])
            if chunk[:4] == b"data":
                here = total - file.tell()
                if size > here and size not in _UNKNOWN_SIZES:
                    raise DataError(
                        f"{path} is truncated: its header promises {size} bytes of sound, the file holds {here}."
                    )
                return file.tell() - 4 if size == riff_size == 0 < here else None
            file.seek(size + size % 2, os.SEEK_CUR)
    return None


def _check_last_ogg_page(path: Path) -> None:
    """Ogg has no total length: libsndfile takes the last whole page for the end, so a torn one is an error."""
    with path.open("rb") as file:
        if file.read(4) != b"OggS":
            return
        file.seek(max(0, path.stat().st_size - _LARGEST_OGG_PAGE))
        tail = file.read()
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    # Byte 26 counts the entries of the segment table behind it; their sum is the size of what follows.
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        raise DataError(f"{path} is truncated: its last Ogg page is not whole.")


def _with_size(path: Path, size_at: int) -> io.BytesIO:
    """The file in memory, its sound said to be of unknown size."""
    content = bytearray(path.read_bytes())
    content[size_at : size_at + 4] = b"\xff" * 4
    return io.BytesIO(content)


def _num_samples(file: soundfile.SoundFile, path: Path) -> int:
    if file.frames >= _UNKNOWN_FRAMES:
        raise DataError(f"{path} does not say how long it is (it was written to a pipe). Write it again to a file.")
    if file.frames <= 0:
        raise DataError(
            f"{path} holds no samples: it is empty or was cut off. Remove it from the data or write it again."
        )
    return int(file.frames)


def _decode(file: soundfile.SoundFile, path: Path, start: Seconds | None, end: Seconds | None) -> np.ndarray:
    """Samples (N, channels), float32, of the part asked for; all of them, or an error."""
    first, last = _part(_num_samples(file, path), file.samplerate, path, start, end)
    return _samples(file, path, last - first, first)


def _samples(file: soundfile.SoundFile, path: Path, count: int, first: int = 0) -> np.ndarray:
    """The next samples (count, channels), float32, or those from sample `first` on; all of them, or an error."""
    import soundfile

    try:
        if first:
            file.seek(first)
        else:
            first = file.tell()
        samples: np.ndarray = file.read(count, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise DataError(f"{path} is damaged or truncated: {error}") from None
    if len(samples) < count:
        raise DataError(
            f"{path} is truncated: {count} samples were due from sample {first} on, {len(samples)} could be decoded."
        )
    return samples


def _check_rate(path: Path, rate: int, wanted: int, resample: bool) -> None:
    if rate != wanted and not resample:
        raise DataError(
            f"{path} has a sample rate of {rate} Hz, but {wanted} Hz is needed. "
            "Convert the file, or let it be resampled with `-o data.resample=true`."
        )


def _finite(wav: np.ndarray, path: Path) -> np.ndarray:
    if not np.isfinite(wav).all():
        raise DataError(f"{path} has samples that are NaN or infinite. Write the file again from its source.")
    return wav


def _part(num_samples: int, rate: int, path: Path, start: Seconds | None, end: Seconds | None) -> tuple[int, int]:
    first = 0 if start is None else round(start * rate)
    last = num_samples if end is None else round(end * rate)
    if not 0 <= first < last <= num_samples:
        raise DataError(
            f"{path}: the part from {start or 0.0} s to {'the end' if end is None else f'{end} s'} is empty or "
            f"outside the file, which is {num_samples / rate:.6g} s long ({num_samples} samples at {rate} Hz)."
        )
    return first, last


def _select(samples: np.ndarray, channel: Channel, path: Path) -> np.ndarray:
    channels = samples.shape[1]
    if isinstance(channel, int):
        if channel >= channels:
            raise DataError(
                f"{path} has {channels} channel(s), numbered from 0; data.channel={channel} is not among them."
            )
        return samples[:, channel]
    if channels > 1 and channel == "single":
        raise DataError(
            f"{path} has {channels} channels. Choose with `-o data.channel=mean|0|1`: their mean, or one of them."
        )
    return samples[:, 0] if channels == 1 else samples.mean(axis=1)
