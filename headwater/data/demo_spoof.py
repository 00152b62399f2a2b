"""The anti-spoofing demo: synthetic speech as it is, and its copies by Griffin-Lim and WORLD, made on this machine.

Both go one way after that: through the same cut, room, microphone, noise, limiter, level and 16-bit rounding, all drawn for each sentence. So length, level and
peak are equal by construction, and with silence and sampling history they tell nothing. Its numbers say nothing about human speech.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.data import demo, demo_recipe, espeak
from headwater.data import demo_spoof_recipe as recipe
from headwater.data.built import built_once
from headwater.data.demo import SAMPLE_RATE
from headwater.data.espeak import Request, Speech
from headwater.errors import UsageError
from headwater.progress import progress

if TYPE_CHECKING:
    import numpy as np

    from headwater.data.corpus import Corpus

PIECE_S = 2.0  # of a sentence, that both its clips come from
MARGIN_S = 0.1  # its ends are left out: a vocoder knows nothing of what was before
SECONDS = (1.3, 1.7)
ROOM_S = 0.004  # decay of its echoes to 1 / e
TILT_DB = (-1.5, 1.5)  # an octave, around 1 kHz
LEVEL_DB = (-30.0, -22.0)  # RMS of full scale
CREST_DB = (10.0, 12.0)  # of the highest peak over the RMS
SNR_DB = (20.0, 30.0)
DEVICE_DB = -48.0  # the recorder's own noise, over the whole band, against the RMS of what it records
LOW_HZ = (80.0, 120.0)
HIGH_HZ = (6800.0, 7400.0)  # below what is lost between eSpeak's 22.05 kHz and 16 kHz
EDGE_HZ = (20.0, 200.0)  # width of the slopes there
HALVINGS = 40  # of the range of the limiter's gain
INSTALL = "pip install 'headwater[demo]'"


def demo_spoof_corpus(cache: Path | str | None = None) -> Corpus:
    """The corpus, made on first use: train, dev and test without a speaker or a sentence in common, columns `label` (bonafide, spoof) and `attack`.

    Half of the attacks of test occur nowhere else.

    Parameters
    ----------
    cache: folder to keep it in; `HEADWATER_CACHE`, or `~/.cache/headwater`, when not given.

    Raises
    ------
    UsageError: eSpeak NG (the wheel espeakng-loader) or WORLD (pyworld) is not installed or cannot be loaded.
    """
    from headwater.data.readers import read_corpus
    from headwater.paths import cache_root

    parent = (cache_root() if cache is None else Path(cache).expanduser()) / "demo_spoof"
    folder = built_once(parent / f"{recipe.VERSION}-{_recipe_hash()}", build_demo_spoof, "the anti-spoofing demo")
    return read_corpus(folder / "corpus.csv", reader="csv", name="demo_spoof")


@dataclass(frozen=True)
class Clip:
    """A clip to make of a sentence: as it is (attack `-`), or copied."""

    name: str
    split: str
    speaker: str
    attack: str


def build_demo_spoof(folder: Path) -> None:
    """Writes the corpus into `folder`: equal bytes at each call on one machine."""
    import numpy as np
    import soundfile

    plan = list(_plan())
    requests = [request for request, _ in plan]
    rows = []
    speech = progress(espeak.speak(requests), total=len(plan), what="making the anti-spoofing demo", unit="sentence")
    for (_, clips), spoken in zip(plan, speech, strict=True):
        voice = _piece(_voice(spoken), np.random.default_rng(_seed(clips[0].name, "piece")))
        for clip in clips:
            copy = voice if clip.attack == "-" else copied(voice, {**recipe.SEEN, **recipe.UNSEEN}[clip.attack])
            path = Path("flac") / f"{clip.name}.flac"
            (folder / path).parent.mkdir(exist_ok=True)
            samples = recorded(copy, np.random.default_rng(_seed(clips[0].name, "sound")))
            soundfile.write(folder / path, samples, SAMPLE_RATE, subtype="PCM_16")
            label = "bonafide" if clip.attack == "-" else "spoof"
            rows.append((path.as_posix(), clip.speaker, clip.split, label, clip.attack))
    with (folder / "corpus.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "speaker", "split", "label", "attack"))
        writer.writerows(sorted(rows))


def copied(voice: np.ndarray, attack: recipe.Attack) -> np.ndarray:
    """Speech (N,) at 16 kHz by way of a vocoder, (N,) float64, computed by one thread: so short a piece takes others longer to share than to compute."""
    import torch

    from headwater.vocoder.copy_synthesis import griffin_lim, mel_bound, world
    from headwater.vocoder.f0 import Tracking
    from headwater.vocoder.mel import LogMel

    wav, threads = torch.from_numpy(voice), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if isinstance(attack, recipe.World):
            made = world(wav, SAMPLE_RATE, Tracking(attack.tracker, period_ms=attack.period))
        else:
            phases = torch.Generator().manual_seed(_seed(json.dumps(asdict(attack)), "phases"))
            n_fft, hop, iterations = attack.n_fft, attack.hop, attack.iterations
            if attack.num_mels is None:
                made = griffin_lim(wav, SAMPLE_RATE, n_fft=n_fft, hop=hop, iterations=iterations, generator=phases)
            else:
                mel = LogMel(SAMPLE_RATE, n_fft=n_fft, hop=hop, num_mels=attack.num_mels)
                made = mel_bound(wav, mel, iterations=iterations, generator=phases)
    finally:
        torch.set_num_threads(threads)
    return made.double().numpy()


def recorded(voice: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A stretch of speech as recorded somewhere, float samples below full scale. A copy goes through what is drawn for its original."""
    import numpy as np

    margin = round(SAMPLE_RATE * MARGIN_S)
    length = min(len(voice) - 2 * margin, round(SAMPLE_RATE * generator.uniform(*SECONDS)))
    start = margin + int(generator.integers(len(voice) - 2 * margin - length + 1))
    size = 1 << len(voice).bit_length()  # of the FFT: room for echoes beyond the end
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    # Echoes without a colour of their own.
    echoes = np.fft.rfft(generator.standard_normal(size) * np.exp(-np.arange(size) / (ROOM_S * SAMPLE_RATE)))
    tilt = 10 ** (generator.uniform(*TILT_DB) * np.log2(np.maximum(hertz, 60.0) / 1000) / 20)
    response = echoes / np.abs(echoes) * tilt
    sound = np.fft.irfft(np.fft.rfft(voice, size) * response)[start : start + length]
    sound = sound / _rms(sound)
    sound += 10 ** (-generator.uniform(*SNR_DB) / 20) * generator.standard_normal(length)
    low, high = generator.uniform(*LOW_HZ), generator.uniform(*HIGH_HZ)
    band = _slope(hertz - low, EDGE_HZ[0]) * _slope(high - hertz, EDGE_HZ[1])
    sound = np.fft.irfft(np.fft.rfft(sound, size) * band)[:length]
    sound = sound / _rms(sound) + 10 ** (DEVICE_DB / 20) * generator.standard_normal(length)
    sound = limited(sound, 10 ** (generator.uniform(*CREST_DB) / 20))
    return sound * 10 ** (generator.uniform(*LEVEL_DB) / 20) / _rms(sound)


def limited(sound: np.ndarray, crest: float) -> np.ndarray:
    """(N,) with its highest peak at `crest` times the RMS, by a soft limiter; as it is where it lies lower. That height would give a vocoder away."""
    import numpy as np

    low, high = (
        1e-3,
        1e3 / np.abs(sound).max(),
    )  # of the gain before the limiter: none of it limits, and nearly square waves
    for _ in range(HALVINGS):
        gain = (low * high) ** 0.5
        made = np.tanh(gain * sound)
        low, high = (gain, high) if np.abs(made).max() > crest * _rms(made) else (low, gain)
    return np.asarray(np.tanh(low * sound))


def _slope(distance: np.ndarray, width: float) -> np.ndarray:
    """0 far below an edge, 1 far above it."""
    import numpy as np

    return np.asarray(0.5 + 0.5 * np.tanh(2 * distance / width))


def _rms(samples: np.ndarray) -> float:
    return float((samples**2).mean() ** 0.5)


def _voice(speech: Speech) -> np.ndarray:
    """Speech from its first phone to its last at 16 kHz, float64."""
    import numpy as np
    import soxr

    silent = ("_", "_:", "_!")
    last = len(speech.phones) - 1
    starts = [start for start, name in speech.phones if name not in silent]
    ends = [speech.phones[number + 1][0] for number in range(last) if speech.phones[number][1] not in silent]
    samples = speech.samples[starts[0] : max(ends)].astype(np.float64) / 32768
    return np.asarray(soxr.resample(samples, speech.sample_rate, SAMPLE_RATE, quality="VHQ"))


def _piece(voice: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    length = min(len(voice), round(SAMPLE_RATE * PIECE_S))
    start = int(generator.integers(len(voice) - length + 1))
    return voice[start : start + length]


def _plan() -> Iterator[tuple[Request, list[Clip]]]:
    """Every sentence, and the two clips that are made of it. Names say nothing of the label."""
    import numpy as np

    for split, voices in recipe.SPEAKERS.items():
        for order, voice in enumerate(voices):
            generator = np.random.default_rng(_seed(f"{split} {voice.speaker}", "sentences"))
            texts, count = demo_recipe.SENTENCES[split], recipe.SENTENCES[split]
            numbers = iter((1 + generator.permutation(2 * count)).tolist())
            for turn, choice in enumerate(generator.permutation(len(texts))[:count]):
                attacks = recipe.ATTACKS[split]
                clips = [
                    Clip(f"{voice.speaker}-{next(numbers):02d}", split, voice.speaker, attack)
                    for attack in ("-", attacks[(order + turn) % len(attacks)])
                ]
                seed = _seed(clips[0].name, "voice") % 2**31
                variant = f"en-us+{voice.variant}"
                yield Request(texts[choice], variant, voice.rate, voice.pitch, voice.pitch_range, seed), clips


def _seed(name: str, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"spoof {recipe.VERSION} {name} {purpose}".encode()).digest()[:7], "little")


def _recipe_hash() -> str:
    """Names the corpus by all that shapes it: what is said and how it is copied and recorded, the code, and the versions of the synthesisers."""
    digest = hashlib.sha256()
    for package, names in {"eSpeak NG": ("espeakng-loader",), "WORLD": ("pyworld", "pyworld-prebuilt")}.items():
        versions = [version for name in names if (version := _version(name)) is not None]
        if not versions:
            raise UsageError(
                f"the anti-spoofing demo is made with {package}, and the package {names[0]} is not installed: {INSTALL}, or give data of your own with --data"
            )
        digest.update(versions[0].encode())
    sources = [__file__, recipe.__file__, demo_recipe.__file__, espeak.__file__, demo.__file__]
    for module in ("copy_synthesis", "world", "mel"):
        found = find_spec(f"headwater.vocoder.{module}")
        assert found is not None and found.origin is not None
        sources.append(found.origin)
    for source in sources:
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()[:12]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


__all__ = ["build_demo_spoof", "demo_spoof_corpus"]
