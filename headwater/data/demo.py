"""The demo corpus: some 13 minutes of synthetic speech by 24 speakers, made on this machine within seconds, with exact
phone times.

It exists so that everything can be tried, and tested, before any data is at hand. Its numbers say nothing about human
speech.
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import asdict
from importlib import metadata
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.data import demo_recipe as recipe
from headwater.data import espeak
from headwater.data.built import built_once
from headwater.data.espeak import Request, Speech
from headwater.data.labels import label_centres, num_labels
from headwater.errors import HeadwaterError, UsageError
from headwater.progress import progress

if TYPE_CHECKING:
    import numpy as np

    from headwater.data.corpus import Corpus
    from headwater.data.labels import FrameLabels
    from headwater.data.trials import Trials

SAMPLE_RATE = 16000
LEVEL_DB = (-14.0, 0.0)  # around an RMS of -20 dB of full scale
SNR_DB = (15.0, 35.0)
TILT_DB = (-1.5, 1.5)  # an octave, around 1 kHz: the room and microphone of this one utterance
NOISE_SLOPE = (0.0, 1.5)  # the noise's power falls with f ** -slope
PAUSE_S = (0.05, 0.30)  # of noise alone, before and after
JITTER = {"pitch": 5, "rate": 8}


def demo_corpus(cache: Path | str | None = None) -> Corpus:
    """The demo corpus, made on first use: 24 speakers, splits train/dev/test without a sentence in common, columns
    `gender` and `text`.

    Parameters
    ----------
    cache: folder to keep it in; `HEADWATER_CACHE`, or `~/.cache/headwater`, when not given.

    Raises
    ------
    UsageError: eSpeak NG (the wheel espeakng-loader) is not installed or cannot be loaded.
    """
    from headwater.data.readers import read_corpus

    return read_corpus(demo_folder(cache) / "corpus.csv", reader="csv", name="demo")


def demo_labels(cache: Path | str | None = None) -> FrameLabels:
    """Phone labels of the demo corpus every 10 ms: SIL and 39 ARPAbet phones, times from the synthesiser itself."""
    from headwater.data.labels import read_frame_labels

    return read_frame_labels(demo_folder(cache) / "phones.txt")


def demo_trials(cache: Path | str | None = None) -> Trials:
    """Verification trials over the test split of the demo corpus: every same-speaker pair and as many pairs of two
    speakers of one gender."""
    from headwater.data.trials import read_trials

    return read_trials(demo_folder(cache) / "trials.txt", corpus=demo_corpus(cache))


def demo_folder(cache: Path | str | None = None) -> Path:
    """The folder with `corpus.csv`, `phones.txt`, `phone_classes.txt`, `trials.txt` and `wav/`; built whole under
    another name and renamed, so it is never half there."""
    from headwater.paths import cache_root

    parent = (cache_root() if cache is None else Path(cache).expanduser()) / "demo"
    return built_once(parent / f"{recipe.VERSION}-{_recipe_hash()}", build_demo, "the demo corpus")


def build_demo(folder: Path) -> None:
    """Writes the demo corpus into `folder`: equal bytes at each call."""
    import numpy as np
    import soundfile

    plan = _plan()
    rows, label_lines = [], []
    speech = progress(
        espeak.speak([request for _, _, _, request in plan]), total=len(plan), what="making the demo corpus"
    )
    for (name, split, voice, request), spoken in zip(plan, speech, strict=True):
        samples, labels = _render(spoken, np.random.default_rng(_seed(name, "sound")))
        path = Path("wav") / voice.speaker / f"{name}.wav"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / path, samples, SAMPLE_RATE, subtype="PCM_16")
        rows.append((path.as_posix(), voice.speaker, split, voice.gender, request.text))
        label_lines.append(f"{name} {' '.join(map(str, labels))}\n")
    with (folder / "corpus.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "speaker", "split", "gender", "text"))
        writer.writerows(rows)
    (folder / "phones.txt").write_text("".join(label_lines), encoding="utf-8")
    (folder / "phone_classes.txt").write_text(
        "".join(f"{index} {name}\n" for index, name in enumerate(recipe.CLASSES)), encoding="utf-8"
    )
    (folder / "trials.txt").write_text("".join(_trial_lines(rows)), encoding="utf-8")


def _recipe_hash() -> str:
    """Names the corpus by all that shapes it: what is said and how it is rendered, the rendering's code and the
    synthesiser's version."""
    try:
        wheel = metadata.version("espeakng-loader")
    except metadata.PackageNotFoundError:
        raise UsageError(
            f"the demo corpus is spoken by eSpeak NG, and the package espeakng-loader is not installed: {espeak.ADVICE}"
        ) from None
    digest = hashlib.sha256(json.dumps([wheel, [asdict(voice) for voice in recipe.VOICES]]).encode())
    for source in (__file__, recipe.__file__, espeak.__file__):
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()[:12]


def _seed(name: str, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{recipe.VERSION} {name} {purpose}".encode()).digest()[:8], "little")


def _plan() -> list[tuple[str, str, recipe.Voice, Request]]:
    """(utterance id, split, voice, request) of every utterance. A speaker's sentences are drawn without replacement
    from those of the split."""
    import numpy as np

    plan = []
    for voice in recipe.VOICES:
        generator = np.random.default_rng(_seed(voice.speaker, "sentences"))
        number = 0
        for split, count in recipe.UTTERANCES.items():
            for choice in generator.permutation(len(recipe.SENTENCES[split]))[:count]:
                number += 1
                pitch = voice.pitch + int(generator.integers(-JITTER["pitch"], JITTER["pitch"] + 1))
                rate = voice.rate + int(generator.integers(-JITTER["rate"], JITTER["rate"] + 1))
                name = f"{voice.speaker}-{number:02d}"
                request = Request(
                    text=recipe.SENTENCES[split][choice],
                    voice=f"en-us+{voice.variant}",
                    rate=rate,
                    pitch=pitch,
                    pitch_range=voice.pitch_range,
                    seed=_seed(name, "voice") % 2**31,
                )
                plan.append((name, split, voice, request))
    return plan


def _render(speech: Speech, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Speech as recorded somewhere: float samples at 16 kHz with pauses, tilt, noise and level of this utterance, and
    its labels (int16, one each 10 ms)."""
    import numpy as np
    import soxr

    voice = soxr.resample(speech.samples.astype(np.float64) / 32768, speech.sample_rate, SAMPLE_RATE, quality="VHQ")
    before, after = (int(SAMPLE_RATE * seconds) for seconds in generator.uniform(*PAUSE_S, size=2))
    voice = np.pad(voice, (before, after))
    size = 1 << (len(voice) - 1).bit_length()  # an FFT of a length with a large prime factor takes ten times as long
    octaves = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 60.0) / 1000)
    tilt = 10 ** (generator.uniform(*TILT_DB) * octaves / 20)
    voice = np.fft.irfft(np.fft.rfft(voice, size) * tilt)[: len(voice)]
    voice *= 10 ** ((generator.uniform(*LEVEL_DB) - 20) / 20) / _rms(voice)
    slope = 2 ** (-generator.uniform(*NOISE_SLOPE) * octaves / 2)
    noise = np.fft.irfft(np.fft.rfft(generator.standard_normal(size)) * slope)[: len(voice)]
    noise *= 10 ** (-generator.uniform(*SNR_DB) / 20) * _rms(voice) / _rms(noise)
    samples = voice + noise
    samples *= min(1.0, 0.99 / np.abs(samples).max())

    starts = [(before + start * SAMPLE_RATE / speech.sample_rate, name) for start, name in speech.phones]
    starts.append((float(len(voice) - after), "_"))
    return samples, _frame_labels(starts, len(samples))


def _frame_labels(starts: list[tuple[float, str]], num_samples: int) -> np.ndarray:
    """Class of each label's time: what eSpeak says from one start (in samples) to the next; silence before the
    first."""
    import numpy as np

    index = {name: number for number, name in enumerate(recipe.CLASSES)}
    edges, classes = [0.0], [index["SIL"]]
    for (start, mnemonic), (end, _) in zip(starts, [*starts[1:], (float(num_samples), "")], strict=True):
        if mnemonic not in recipe.PHONES:
            raise HeadwaterError(
                f"eSpeak NG named a phone {mnemonic!r} that the demo corpus does not know: pip install 'headwater[demo]' brings a version that fits"
            )
        phones = recipe.PHONES[mnemonic]
        for part, phone in enumerate(phones):
            edges.append(start + (end - start) * part / len(phones))
            classes.append(index[phone])
    around = np.searchsorted(edges, label_centres(num_labels(num_samples)), side="right") - 1
    return np.array(classes, dtype=np.int16)[around]


def _rms(samples: np.ndarray) -> float:
    return float((samples**2).mean() ** 0.5)


def _trial_lines(rows: list[tuple[str, str, str, str, str]]) -> list[str]:
    test = [(path, speaker, gender) for path, speaker, split, gender, _ in rows if split == "test"]
    pairs = sorted(
        combinations(test, 2), key=lambda pair: hashlib.sha256(f"{pair[0][0]} {pair[1][0]}".encode()).digest()
    )
    same = [f"1 {one[0]} {two[0]}\n" for one, two in pairs if one[1] == two[1]]
    other = [f"0 {one[0]} {two[0]}\n" for one, two in pairs if one[1] != two[1] and one[2] == two[2]]
    return sorted(same + other[: len(same)], key=lambda line: line[2:])


__all__ = ["build_demo", "demo_corpus", "demo_folder", "demo_labels", "demo_trials"]
