"""Small corpora of mixtures for tests: every speaker is noise in a band of its own, as loud as its utterance's number says."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

RATE = 8000
SPLITS = ("train",) * 6 + ("dev",) * 2 + ("test",) * 3


def voice(speaker: int, seed: int, samples: int, rate: int = RATE) -> np.ndarray:
    """(samples,) float64: band-limited noise with a slow rhythm."""
    generator = np.random.default_rng([speaker, seed])
    spectrum = np.fft.rfft(generator.standard_normal(samples))
    hertz = np.fft.rfftfreq(samples, 1 / rate)
    low = 200 + 300 * speaker
    wav = np.fft.irfft(np.where((hertz > low) & (hertz < low + 250), spectrum, 0), samples)
    wav *= 1 + 0.8 * np.sin(2 * np.pi * (2 + speaker) * np.arange(samples) / rate)
    return 0.1 * wav / np.sqrt(np.mean(wav**2))


def write_voices(folder: Path, speakers: int = 6, files: int = 2, seconds: float = 0.5, rate: int = RATE) -> list[Path]:
    """SPEAKER/SPEAKER-NUMBER.wav, of unequal lengths."""
    paths = []
    for speaker in range(speakers):
        for number in range(files):
            path = folder / f"s{speaker}" / f"s{speaker}-{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            samples = int(rate * seconds * (1 + 0.1 * ((speaker + number) % 4)))
            soundfile.write(path, voice(speaker, number, samples, rate), rate)
            paths.append(path)
    return paths


def write_rows(file: Path, header: str, rows: Sequence[Sequence[object]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return file


def make_list(folder: Path, count: int = 2, rate: int = RATE, seconds: float = 0.5) -> Path:
    """`path1,path2,...,gain1,...`: 6, 2 and 3 mixtures of train, dev and test."""
    paths = [path.relative_to(folder).as_posix() for path in write_voices(folder, rate=rate, seconds=seconds)]
    numbers = range(1, count + 1)
    header = ["mix_id", "split", "genders", *(f"{what}{n}" for what in ("path", "speaker", "gain") for n in numbers)]
    rows = []
    for index, split in enumerate(SPLITS):
        chosen = [paths[(2 * index + 5 * n) % len(paths)] for n in range(count)]
        speakers = [path.partition("/")[0] for path in chosen]
        genders = "".join("FM"[int(name[1:]) % 2] for name in speakers)
        gains = [1.0 / (1 + 0.3 * n) for n in range(count)]
        rows.append([f"mix{index:02d}", split, genders, *chosen, *speakers, *gains])
    return write_rows(folder / f"mix{count}.csv", ",".join(header), rows)
