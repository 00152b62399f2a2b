"""Anti-spoofing corpora on disk for tests, in every layout that is known: short voiced tones, and the same through a coarse quantiser as the spoofs.

    clips = spoof_clips()
    make_2019(tmp_path / "LA", clips)   # -> the folder to give to --data

Equal arguments write equal bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from corpora import SAMPLE_RATE, tones

SPEAKERS = {"train": (0, 1, 2), "dev": (3, 4), "eval": (5, 6, 7)}
ATTACKS = {"train": ("A01", "A02"), "dev": ("A01", "A02"), "eval": ("A07", "A08")}
SETS = {"train": "T", "dev": "D", "eval": "E"}


@dataclass(frozen=True)
class SpoofClip:
    """One clip: `split` in the words of ASVspoof (train, dev, eval), `attack` `-` of bona fide speech, and its samples or a file with them."""

    name: str
    split: str
    speaker: str
    attack: str
    sound: np.ndarray | Path

    @property
    def label(self) -> str:
        return "bonafide" if self.attack == "-" else "spoof"

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(self.sound, Path):
            shutil.copy(self.sound, file)
        else:
            soundfile.write(file, self.sound, SAMPLE_RATE, subtype="PCM_16")


def spoof_clips(utterances: int = 2) -> list[SpoofClip]:
    """Of each speaker so many bona fide clips, and each of them spoofed."""
    # Samples are whole numbers: libsndfile rounds floats for FLAC otherwise than for WAV.
    clips = []
    of_speaker = {speaker: split for split, speakers in SPEAKERS.items() for speaker in speakers}
    for number, tone in enumerate(tones(len(of_speaker), utterances, 0.3)):
        split, speaker = of_speaker[tone.speaker], f"LA_{tone.speaker:04d}"
        coarse = np.round(tone.samples * 8 / np.abs(tone.samples).max()) / 8 * np.abs(tone.samples).max()
        attack = ATTACKS[split][tone.number % 2]
        for turn, (sound, kind) in enumerate(((tone.samples, "-"), (coarse, attack))):
            name = f"LA_{SETS[split]}_{1000 * turn + number:07d}"
            clips.append(SpoofClip(name, split, speaker, kind, (16000 * sound / np.abs(sound).max()).astype(np.int16)))
    return clips


def of_split(clips: Iterable[SpoofClip], split: str) -> list[SpoofClip]:
    return [clip for clip in clips if clip.split == split]


def write_lines(file: Path, lines: Iterable[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def line_2019(clip: SpoofClip) -> str:
    return f"{clip.speaker} {clip.name} - {clip.attack} {clip.label}"


def make_2019(folder: Path, clips: Sequence[SpoofClip]) -> Path:
    """The tree of ASVspoof 2019 LA."""
    ends = {"train": "train.trn", "dev": "dev.trl", "eval": "eval.trl"}
    for split, end in ends.items():
        part = of_split(clips, split)
        for clip in part:
            clip.write(folder / f"ASVspoof2019_LA_{split}" / "flac" / f"{clip.name}.flac")
        write_lines(folder / "ASVspoof2019_LA_cm_protocols" / f"ASVspoof2019.LA.cm.{end}.txt", map(line_2019, part))
    return folder


def make_asv_scores(file: Path, clips: Iterable[SpoofClip], seed: int = 0) -> Path:
    """ASV scores in the form of 2019: targets above nontargets, spoofs between them."""
    generator = np.random.default_rng(seed)
    means = {"target": 4.0, "nontarget": -4.0, "spoof": 1.0}
    attacks = sorted({clip.attack for clip in clips} - {"-"})
    kinds = [("bonafide", "target"), ("bonafide", "nontarget"), *((attack, "spoof") for attack in attacks)]
    write_lines(
        file,
        (
            f"{attack} {kind} {means[kind] + 2 * generator.standard_normal():.4f}"
            for attack, kind in kinds
            for _ in range(50)
        ),
    )
    return file


def make_asv_2021(folder: Path, clips: Iterable[SpoofClip]) -> Path:
    """ASV scores in the form of 2021 with their key beside them: of each clip a target, a nontarget or a spoof of its name."""
    trials = [
        (f"T{number}", clip.name, "spoof" if clip.attack != "-" else ("target", "nontarget")[number // 2 % 2], clip)
        for number, clip in enumerate(clips)
    ]
    value = {"target": 4, "nontarget": -4, "spoof": 5}
    write_lines(folder / "score.txt", (f"{model} {name} {value[kind]}" for model, name, kind, _ in trials))
    write_lines(
        folder / "trial_metadata.txt",
        (f"{model} {name} alaw ita_tx {clip.attack} {kind} notrim eval" for model, name, kind, clip in trials),
    )
    return folder / "score.txt"


def asv_file(folder: Path, split: str) -> Path:
    """Where the tree of 2019 has its ASV scores."""
    return folder / "ASVspoof2019_LA_asv_scores" / f"ASVspoof2019.LA.asv.{split}.gi.trl.scores.txt"


def make_2021(folder: Path, clips: Sequence[SpoofClip], track: str = "LA") -> Path:
    """Evaluation audio and keys of ASVspoof 2021: one speaker's clips are of the subset progress, another's are hidden."""
    subsets = dict(zip(sorted({clip.speaker for clip in clips}), ("progress", "hidden", "eval", "eval", "eval", "eval", "eval", "eval")))  # fmt: skip
    lines = []
    for clip in clips:
        clip.write(folder / f"ASVspoof2021_{track}_eval" / "flac" / f"{clip.name}.flac")
        attack = "bonafide" if clip.attack == "-" else clip.attack
        subset = subsets[clip.speaker]
        if track == "LA":
            lines.append(f"{clip.speaker} {clip.name} alaw ita_tx {attack} {clip.label} notrim {subset}")
        else:
            vocoder = "bonafide" if clip.attack == "-" else "traditional_vocoder"
            lines.append(
                f"{clip.speaker} {clip.name} low_mp3 asvspoof {attack} {clip.label} notrim {subset} {vocoder} - - - -"
            )
    write_lines(folder / f"{track}-keys-full" / "keys" / track / "CM" / "trial_metadata.txt", lines)
    return folder


def make_5(folder: Path, clips: Sequence[SpoofClip]) -> Path:
    """The tree of ASVspoof 5, track 1."""
    names = {
        "train": ("ASVspoof5.train.tsv", "flac_T"),
        "dev": ("ASVspoof5.dev.track_1.tsv", "flac_D"),
        "eval": ("ASVspoof5.eval.track_1.tsv", "flac_E_eval"),
    }
    for split, (key, audio) in names.items():
        part = of_split(clips, split)
        for clip in part:
            clip.write(folder / audio / f"{clip.name}.flac")
        codec = "C01 2" if split == "eval" else "- -"
        lines = (
            f"{clip.speaker} {clip.name} F {codec} - {'AC1' if clip.label == 'spoof' else '-'} "
            f"{'bonafide' if clip.attack == '-' else clip.attack} {clip.label} -"
            for clip in part
        )
        write_lines(folder / "ASVspoof5_protocols" / key, lines)
    return folder


def make_protocols(folder: Path, clips: Sequence[SpoofClip]) -> Path:
    """Three short protocols beside a folder of audio."""
    for clip in clips:
        clip.write(folder / "flac" / f"{clip.name}.flac")
    for split in SPEAKERS:
        write_lines(folder / f"protocol.{split}.txt", map(line_2019, of_split(clips, split)))
    return folder


def make_table(folder: Path, clips: Sequence[SpoofClip]) -> Path:
    """A CSV; the file to give to --data."""
    rows = ["path,split,label,speaker,attack"]
    for clip in clips:
        clip.write(folder / "wav" / f"{clip.name}.wav")
        split = "test" if clip.split == "eval" else clip.split
        rows.append(f"wav/{clip.name}.wav,{split},{clip.label},{clip.speaker},{clip.attack}")
    write_lines(folder / "clips.csv", rows)
    return folder / "clips.csv"


WITH_TRAIN: dict[str, Callable[[Path, Sequence[SpoofClip]], Path]] = {
    "2019": make_2019,
    "5": make_5,
    "protocols": make_protocols,
    "csv": make_table,
}
