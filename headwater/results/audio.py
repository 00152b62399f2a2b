"""Examples to listen to: kept in `audio/` of a run folder as they are, and played from within the report."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headwater.errors import DataError
from headwater.results.files import write_bytes, write_json
from headwater.results.names import safe, unique

if TYPE_CHECKING:
    from headwater.audio.write import Signal

INDEX = "clips.json"
LONGEST = 15.0  # seconds of each that the page plays
MOST_BYTES = 6 * 2**20  # of all that the page plays
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


@dataclass(frozen=True)
class Clip:
    """What there is to hear of one utterance: the file of each signal by its name, relative to `folder`."""

    id: str
    folder: Path
    files: Mapping[str, str]

    @property
    def stem(self) -> str:
        """What names this clip among those of its split, in names of files."""
        return Path(next(iter(self.files.values()))).parent.name

    def signals(self) -> Iterator[tuple[str, str, np.ndarray, int]]:
        """(name, file, samples (N,) float32, rate) of each. DataError for a file that is missing or broken."""
        from headwater import audio

        for name, file in self.files.items():
            rate = audio.info(self.folder / file).sample_rate
            yield name, file, audio.read(self.folder / file, sample_rate=rate).numpy(), rate


def write_clips(run_folder: Path, split: str, clips: Mapping[str, Mapping[str, Signal]]) -> None:
    """Write the clips of a split below `audio/`: FLAC of 16 bit, or WAV of 32-bit float where FLAC would clip."""
    if not clips:
        return
    place = run_folder / "audio" / safe(split)
    index = []
    for stem, (name, signals) in zip(unique(map(safe, clips)), clips.items(), strict=True):
        files = {
            what: f"{stem}/{_write(place / stem, file, signal)}"
            for file, (what, signal) in zip(unique(map(safe, signals)), signals.items(), strict=True)
        }
        index.append({"id": name, "files": files})
    write_json(place / INDEX, {"split": split, "clips": index})


def read_clips(run_folder: Path) -> dict[str, list[Clip]]:
    """The clips of a run by split. DataError where an index is broken or names files elsewhere."""
    found = {}
    for file in sorted((run_folder / "audio").glob(f"*/{INDEX}")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            clips = [
                Clip(str(clip["id"]), file.parent, {str(what): str(name) for what, name in clip["files"].items()})
                for clip in content["clips"]
            ]
            split = str(content["split"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file}: no index of clips ({error!r})") from None
        for name in (name for clip in clips for name in clip.files.values()):
            if "\0" in name or not (file.parent / name).resolve().is_relative_to(file.parent.resolve()):
                raise DataError(f"{file}: {name!r} lies elsewhere; it is not read")
        found[split] = [clip for clip in clips if clip.files]
    return found


def playable(samples: np.ndarray, rate: int) -> tuple[bytes, str, str]:
    """What a browser plays of a signal, its type, and what to know of it: MP3 where it can be written, else FLAC; the first seconds of a long one."""
    import soundfile

    known = []
    if len(samples) > LONGEST * rate:
        samples = samples[: round(LONGEST * rate)]
        known.append(f"first {LONGEST:g} s")
    peak = float(np.abs(samples).max(initial=0.0))
    if peak > 1.0:
        samples = samples / peak
        known.append(f"played at 1/{peak:.3g} of its level, which is beyond full scale")
    kind = "MP3" if rate in _MP3_RATES and "MP3" in soundfile.available_formats() else "FLAC"
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind)
    return buffer.getvalue(), "audio/mpeg" if kind == "MP3" else "audio/flac", "; ".join(known)


def _write(folder: Path, stem: str, signal: Signal) -> str:
    import soundfile

    from headwater.audio.write import WavWriter

    samples = signal.samples()
    if np.abs(samples).max(initial=0.0) > 1.0:
        with WavWriter(folder / f"{stem}.wav", signal.sample_rate) as writer:
            writer.write(samples)
        return writer.path.name
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, signal.sample_rate, format="FLAC", subtype="PCM_16")
    write_bytes(folder / f"{stem}.flac", buffer.getvalue())
    return f"{stem}.flac"
