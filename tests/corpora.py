"""Tiny corpora on disk for tests: voiced tones, a pitch and a vocal tract for each speaker, in every layout that the
readers know.

    corpus = make_corpus(tmp_path, "csv", speakers=3, utterances=4)   # -> what to give to read_corpus
    make_labels(tmp_path, ...)                                        # frame labels of the same utterances, CPC form

Equal arguments write equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 16000
CLASSES = ("SIL", "AA", "IY", "UW")
_FORMANTS = {"AA": (750, 1200), "IY": (300, 2300), "UW": (320, 850)}  # Hz
_SPLITS = ("train", "train", "train", "dev", "test")


@dataclass(frozen=True)
class Tone:
    """One made utterance: who says it, its number among the speaker's (from 0), its split, samples (float64) and frame
    labels (one each 10 ms)."""

    speaker: int
    number: int
    split: str
    samples: np.ndarray
    labels: np.ndarray


def tones(
    speakers: int = 3, utterances: int = 5, seconds: float = 0.5, sample_rate: int = SAMPLE_RATE
) -> Iterator[Tone]:
    """Every speaker's utterances. Splits go round train, train, train, dev, test. Lengths differ by up to a fifth."""
    for speaker in range(speakers):
        for number in range(utterances):
            generator = np.random.default_rng([speaker, number])
            length = int(sample_rate * seconds * generator.uniform(0.9, 1.1))
            classes = np.zeros(length, dtype=np.int16)
            start = int(0.05 * sample_rate)
            while start < length:
                end = start + int(sample_rate * generator.uniform(0.08, 0.16))
                classes[start:end] = generator.integers(len(CLASSES))
                start = end
            samples = _voice(classes, speaker, sample_rate) + 1e-3 * generator.standard_normal(length)
            # Label k is the class at 0.0125 + 0.010 k seconds.
            count = max(0, (length * SAMPLE_RATE // sample_rate - 400) // 160 + 1)
            labels = classes[(200 + 160 * np.arange(count)) * sample_rate // SAMPLE_RATE]
            yield Tone(speaker, number, _SPLITS[number % len(_SPLITS)], samples, labels)


def _voice(classes: np.ndarray, speaker: int, sample_rate: int) -> np.ndarray:
    """Harmonics of the speaker's pitch under the formants of each sample's class, moved by the speaker's tract
    length."""
    time = np.arange(len(classes)) / sample_rate
    pitch, tract = 90 * 1.25 ** (speaker % 5), 1 + 0.06 * (speaker % 7)
    samples = np.zeros(len(classes))
    for harmonic in range(1, int(0.45 * sample_rate / pitch)):
        gains = [0.0] + [
            sum(np.exp(-(((harmonic * pitch / tract - formant) / 150) ** 2)) for formant in _FORMANTS[name])
            for name in CLASSES[1:]
        ]
        samples += np.array(gains)[classes] * np.sin(2 * np.pi * harmonic * pitch * time)
    return 0.2 * samples / max(1.0, float(np.abs(samples).max()))


def _write(path: Path, tone: Tone, sample_rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        path, tone.samples, sample_rate, **({"subtype": "PCM_16"} if path.suffix in (".wav", ".flac") else {})
    )


def speaker_name(speaker: int) -> str:
    """The speaker's name in CSV, Kaldi and folder corpora."""
    return f"spk{speaker:02d}"


def _csv(folder: Path, made: Iterator[Tone], rate: int) -> Path:
    rows = ["path,speaker,split,text"]
    for tone in made:
        path = f"wav/{speaker_name(tone.speaker)}/{speaker_name(tone.speaker)}-{tone.number:02d}.wav"
        _write(folder / path, tone, rate)
        rows.append(f"{path},{speaker_name(tone.speaker)},{tone.split},sentence {tone.number}")
    (folder / "corpus.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "corpus.csv"


def _librispeech(folder: Path, made: Iterator[Tone], rate: int) -> Path:
    """One subset; a chapter holds two utterances."""
    for tone in made:
        speaker, chapter = 100 + tone.speaker, 7000 + 10 * tone.speaker + tone.number // 2
        _write(
            folder
            / "LibriSpeech"
            / "train-clean-100"
            / f"{speaker}"
            / f"{chapter}"
            / f"{speaker}-{chapter}-{tone.number:04d}.flac",
            tone,
            rate,
        )
    return folder / "LibriSpeech"


def _voxceleb(folder: Path, made: Iterator[Tone], rate: int) -> Path:
    """With `iden_split.txt` beside `wav`; a video holds two clips."""
    rows = []
    for tone in made:
        path = f"id{10001 + tone.speaker}/video{tone.number // 2:06d}/{tone.number % 2 + 1:05d}.wav"
        _write(folder / "wav" / path, tone, rate)
        rows.append(f"{('train', 'dev', 'test').index(tone.split) + 1} {path}\n")
    (folder / "iden_split.txt").write_text("".join(rows), encoding="utf-8")
    return folder


def _kaldi(folder: Path, made: Iterator[Tone], rate: int) -> Path:
    """`data/wav.scp` and `data/utt2spk`; the audio lies in `audio/`."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    scp, utt2spk = [], []
    for tone in made:
        speaker = speaker_name(tone.speaker)
        name = f"{speaker}-{tone.number:02d}"
        _write(folder / "audio" / f"{name}.wav", tone, rate)
        scp.append(f"{name} audio/{name}.wav\n")
        utt2spk.append(f"{name} {speaker}\n")
    (folder / "data" / "wav.scp").write_text("".join(scp), encoding="utf-8")
    (folder / "data" / "utt2spk").write_text("".join(utt2spk), encoding="utf-8")
    return folder / "data"


def _folder(folder: Path, made: Iterator[Tone], rate: int) -> Path:
    for tone in made:
        _write(folder / "speakers" / speaker_name(tone.speaker) / f"{tone.number:02d}.wav", tone, rate)
    return folder / "speakers"


def _split_folder(folder: Path, made: Iterator[Tone], rate: int) -> Path:
    for tone in made:
        _write(folder / "splits" / tone.split / speaker_name(tone.speaker) / f"{tone.number:02d}.wav", tone, rate)
    return folder / "splits"


LAYOUTS: dict[str, Callable[[Path, Iterator[Tone], int], Path]] = {
    "csv": _csv,
    "librispeech": _librispeech,
    "voxceleb": _voxceleb,
    "kaldi": _kaldi,
    "folder": _folder,
    "split_folder": _split_folder,
}


def make_corpus(
    folder: Path,
    layout: str = "csv",
    *,
    speakers: int = 3,
    utterances: int = 5,
    seconds: float = 0.5,
    sample_rate: int = SAMPLE_RATE,
) -> Path:
    """Writes a corpus below `folder` and returns the path to give to `read_corpus`."""
    folder.mkdir(parents=True, exist_ok=True)
    return LAYOUTS[layout](folder, tones(speakers, utterances, seconds, sample_rate), sample_rate)


def make_labels(folder: Path, *, speakers: int = 3, utterances: int = 5, seconds: float = 0.5) -> Path:
    """Frame labels of the CSV corpus made with the same arguments: `phones.txt` (CPC form) and `phone_classes.txt`;
    returns the first."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        f"{speaker_name(tone.speaker)}-{tone.number:02d} {' '.join(map(str, tone.labels))}\n"
        for tone in tones(speakers, utterances, seconds)
    ]
    (folder / "phones.txt").write_text("".join(rows), encoding="utf-8")
    (folder / "phone_classes.txt").write_text(
        "".join(f"{index} {name}\n" for index, name in enumerate(CLASSES)), encoding="utf-8"
    )
    return folder / "phones.txt"


def make_trials(folder: Path, *, speakers: int = 3, utterances: int = 5) -> Path:
    """Trials over the CSV corpus made with the same arguments, first utterance of each speaker against all later ones
    of every speaker."""
    rows = [
        f"{int(one == two)} wav/{speaker_name(one)}/{speaker_name(one)}-00.wav wav/{speaker_name(two)}/{speaker_name(two)}-{number:02d}.wav\n"
        for one in range(speakers)
        for two in range(speakers)
        for number in range(1, utterances)
    ]
    (folder / "trials.txt").write_text("".join(rows), encoding="utf-8")
    return folder / "trials.txt"


def write(path: Path, text: str | bytes) -> Path:
    """A file of this content, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def touch(folder: Path, *names: str) -> Path:
    """Empty files of these names; returns the folder."""
    for name in names:
        write(folder / name, b"")
    return folder
