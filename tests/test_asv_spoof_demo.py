"""The anti-spoofing demo: who is in which split, equal bytes, and a probe of cues that must stay at chance where a front-end does not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import headwater
from headwater.data import demo_spoof
from headwater.data import demo_spoof_recipe as recipe
from headwater.data.corpus import Corpus
from headwater.errors import UsageError
from headwater.metrics import Eer, Metric, evaluate
from headwater.probes.logistic import logistic

pytest.importorskip("pyworld", reason="pyworld is not installed: pip install 'headwater[demo]'")
RATE = demo_spoof.SAMPLE_RATE


@pytest.fixture(scope="module")
def corpus(demo_cache: Path) -> Corpus:
    return demo_spoof.demo_spoof_corpus(demo_cache)


def test_splits_share_no_speaker_and_test_has_attacks_of_its_own(corpus: Corpus) -> None:
    found = {
        split: (
            {one.speaker for one in corpus.split(split)},
            {one.labels["attack"] for one in corpus.split(split)} - {"-"},
        )
        for split in corpus.splits()
    }
    assert set(found) == {"train", "dev", "test"}
    assert not found["train"][0] & found["dev"][0] and not (found["train"][0] | found["dev"][0]) & found["test"][0]
    assert found["train"][1] == found["dev"][1] == set(recipe.SEEN)
    assert found["test"][1] == {*recipe.SEEN, *recipe.UNSEEN}
    for split in corpus.splits():
        labels = Counter(one.labels["label"] for one in corpus.split(split))
        assert labels["bonafide"] == labels["spoof"] > 0
    assert all((one.labels["label"] == "bonafide") == (one.labels["attack"] == "-") for one in corpus.utterances)


def test_it_is_made_alike_each_time(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voices = {split: speakers[:1] for split, speakers in recipe.SPEAKERS.items() if split == "train"}
    monkeypatch.setattr(recipe, "SPEAKERS", voices)
    demo_spoof.build_demo_spoof(tmp_path)
    files = sorted((tmp_path / "flac").iterdir())
    assert len(files) == 2 * recipe.SENTENCES["train"]
    assert all(file.read_bytes() == (corpus.root / "flac" / file.name).read_bytes() for file in files)


def test_what_is_missing_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo_spoof, "_version", lambda package: None if "world" in package else "1")
    with pytest.raises(UsageError, match="pyworld is not installed: pip install 'headwater"):
        demo_spoof.demo_spoof_corpus(tmp_path)


def cues(file: Path) -> list[float]:
    """What a clip could be told by without listening: level, peak, length, silence at its ends, offset, edges of its band, clipping."""
    whole, _ = soundfile.read(file, dtype="int16")
    wave = whole / 32768
    rms, peak = np.sqrt((wave**2).mean()), np.abs(wave).max()
    loud = np.flatnonzero(np.abs(wave) > 0.1 * peak)
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    hertz = np.fft.rfftfreq(len(wave), 1 / RATE)
    below = np.cumsum(power) / power.sum()
    edges = [hertz[np.searchsorted(below, share)] for share in (0.99, 0.999, 0.9999)]
    bands = [
        10 * np.log10(power[(low <= hertz) & (hertz < high)].mean() / rms**2) for low, high in ((0, 60), (7600, 8000))
    ]
    return [
        20 * np.log10(rms),
        20 * np.log10(peak),
        len(wave),
        len(wave) % 80,  # WORLD's frames
        len(wave) % 128,  # Griffin-Lim's
        loud[0],
        len(wave) - loud[-1],
        wave.mean() / rms,
        *edges,
        *bands,
        float((np.abs(whole) == np.abs(whole).max()).sum()),
        float((np.diff(whole) == 0).mean()),
    ]


def test_cues_stay_at_chance_where_a_front_end_does_not(corpus: Corpus) -> None:
    """Cues alone stay at chance, by the interval over speakers; a front-end's means and deviations do not."""
    lfcc = headwater.load("lfcc")

    def sound(file: Path) -> np.ndarray:
        wav, _ = soundfile.read(file, dtype="float32")
        frames = lfcc.extract([torch.from_numpy(wav)]).hidden_states[0][0].double()
        return torch.cat([frames.mean(0), frames.std(0)]).numpy()

    of_cues = eer_of(corpus, np.array([cues(one.path) for one in corpus.utterances]))
    of_sound = eer_of(corpus, np.array([sound(one.path) for one in corpus.utterances]))
    assert of_cues.includes_chance, of_cues.describe()
    assert of_sound.ci95 is not None and of_sound.ci95[1] < 50, of_sound.describe()


def eer_of(corpus: Corpus, inputs: np.ndarray) -> Metric:
    """Logistic regression on standardised inputs (N, D), fitted on train and dev."""
    trained = np.array([one.split != "test" for one in corpus.utterances])
    target = np.array([int(one.labels["label"] == "bonafide") for one in corpus.utterances])
    rows = torch.from_numpy((inputs - inputs[trained].mean(0)) / (inputs[trained].std(0) + 1e-12))
    parameters, _ = logistic(rows[trained], torch.from_numpy(target[trained]), 2, l2=0.1)
    direction = parameters[1] - parameters[0]
    scores = (rows @ direction[:-1] + direction[-1]).tolist()
    tested = [
        {"id": one.id, "speaker": one.speaker, "target": int(label), "score": score}
        for one, label, score, train in zip(corpus.utterances, target, scores, trained, strict=True)
        if not train
    ]
    return evaluate([Eer()], tested)["eer"]
