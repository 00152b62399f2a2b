"""The demo corpus: made once for this file, in a process of its own, and compared with another making."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from headwater.data import demo, demo_recipe, espeak
from headwater.data.demo import demo_corpus, demo_folder, demo_labels, demo_trials
from headwater.data.labels import num_labels
from headwater.data.measure import measure
from headwater.errors import HeadwaterError, UsageError

needs_espeak = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None, reason="espeakng-loader is not installed"
)
ROOT = Path(__file__).resolve().parent.parent


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(
        b"".join(path.relative_to(folder).as_posix().encode() + path.read_bytes() for path in files)
    ).hexdigest()


def start_making(cache: Path) -> subprocess.Popen[bytes]:
    program = "from headwater.data.demo import demo_folder; print(demo_folder())"
    environment = {**os.environ, "HEADWATER_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache in which the corpus has been made by two processes at once."""
    folder = tmp_path_factory.mktemp("cache")
    processes = [start_making(folder) for _ in range(2)]
    answers = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert answers[0] == answers[1] == f"{demo_folder(folder)}\n".encode()
    return folder


@needs_espeak
def test_two_processes_at_once_leave_one_whole_corpus(cache):
    assert [path.name for path in (cache / "demo").iterdir()] == [demo_folder(cache).name]
    assert demo_folder(cache).name.startswith(f"{demo_recipe.VERSION}-")


@needs_espeak
def test_every_making_gives_the_same_bytes(cache, tmp_path):
    assert digest(demo_folder(tmp_path)) == digest(demo_folder(cache))


@needs_espeak
def test_a_made_corpus_is_not_made_again(cache, monkeypatch):
    monkeypatch.setattr(demo, "build_demo", lambda folder: pytest.fail("made again"))
    monkeypatch.setenv("HEADWATER_CACHE", str(cache))
    assert demo_corpus().sha256() == demo_corpus(cache).sha256()


@needs_espeak
def test_each_of_24_speakers_is_in_every_split_and_no_sentence_in_two(cache):
    corpus = demo_corpus(cache)
    assert len(corpus.speakers()) == 24
    assert corpus.name == "demo"
    for split, count in demo_recipe.UTTERANCES.items():
        assert Counter(utterance.speaker for utterance in corpus.split(split)) == dict.fromkeys(
            corpus.speakers(), count
        )
    texts = [{utterance.labels["text"] for utterance in corpus.split(split)} for split in ("train", "dev", "test")]
    assert sum(map(len, texts)) == len(set.union(*texts))
    assert Counter(utterance.labels["gender"] for utterance in corpus.utterances) == {"F": 156, "M": 156}


@needs_espeak
def test_audio_is_16_khz_of_two_to_four_seconds_and_never_clips(cache):
    _, lengths, _ = measure(demo_corpus(cache).utterances)
    assert lengths.min() > 1.8 * 16000
    assert lengths.max() < 4.5 * 16000
    assert 10 * 60 * 16000 < lengths.sum() < 15 * 60 * 16000
    for utterance in demo_corpus(cache).utterances[::20]:
        assert soundfile.info(utterance.path).subtype == "PCM_16"
        assert 0.01 < np.abs(soundfile.read(utterance.path)[0]).max() < 0.995


@needs_espeak
def test_level_does_not_tell_speakers_apart(cache):
    levels: dict[str, list[float]] = {}
    for utterance in demo_corpus(cache).utterances:
        samples = soundfile.read(utterance.path)[0]
        levels.setdefault(str(utterance.speaker), []).append(float(10 * np.log10((samples**2).mean())))
    within = np.mean([np.var(values) for values in levels.values()])
    between = np.var([np.mean(values) for values in levels.values()])
    # Means of 13 draws from one distribution differ by a 13th of the variance.
    assert between < 3 * within / 13


@needs_espeak
def test_labels_fit_the_audio_and_hold_every_class_in_every_split(cache):
    corpus, labels = demo_corpus(cache), demo_labels(cache)
    assert labels.classes == demo_recipe.CLASSES
    assert labels.num_classes == 40
    assert labels.classes[0] == "SIL"
    _, lengths, _ = measure(corpus.utterances)
    assert [len(labels.labels[u.id]) for u in corpus.utterances] == [num_labels(int(length)) for length in lengths]
    for split in ("train", "dev", "test"):
        frames = np.bincount(np.concatenate([labels.labels[u.id] for u in corpus.split(split)]), minlength=40)
        assert frames.min() > 0
        assert frames[0] / frames.sum() < 0.2


@needs_espeak
def test_labels_lie_on_the_sounds(cache):
    """Hisses have their power above 3 kHz and vowels below, at the very label; moved by 50 ms the difference
    shrinks."""
    corpus, labels = demo_corpus(cache), demo_labels(cache)
    index = {name: number for number, name in enumerate(labels.classes or ())}
    hiss, vowel = [index["S"], index["SH"]], [index["AA"], index["AO"], index["OW"]]

    def contrast(shift: int) -> float:
        found: dict[str, list[float]] = {"hiss": [], "vowel": []}
        for utterance in corpus.utterances[::6]:
            samples = soundfile.read(utterance.path)[0]
            for number, label in enumerate(labels.labels[utterance.id]):
                start = 160 * (number + shift)
                if label in hiss + vowel and 0 <= start <= len(samples) - 400:
                    power = np.abs(np.fft.rfft(samples[start : start + 400])) ** 2
                    found["hiss" if label in hiss else "vowel"].append(
                        float(np.log(power[75:].sum() / power[:75].sum()))
                    )
        return float(np.mean(found["hiss"]) - np.mean(found["vowel"]))

    at = {shift: contrast(shift) for shift in (-5, 0, 5)}
    assert at[0] > at[-5] + 1
    assert at[0] > at[5] + 1


@needs_espeak
def test_trials_are_balanced_and_true(cache):
    trials = demo_trials(cache)
    assert len(trials) == 144
    assert trials.labels.sum() == 72
    for label, one, two in zip(trials.labels, trials.enrol, trials.test, strict=True):
        first, second = trials.utterances[one], trials.utterances[two]
        assert (first.speaker == second.speaker) == bool(label)
        assert first.split == second.split == "test"
        assert first.labels["gender"] == second.labels["gender"]


@needs_espeak
def test_speech_depends_on_the_list_alone(monkeypatch):
    monkeypatch.setenv("ESPEAK_DATA_PATH", "/nowhere")
    requests = [espeak.Request(text, "en-us+f3", 170, 50, 50, seed=1) for text in ("one two", "shoes", "one two")]
    one, two = list(espeak.speak(requests)), list(espeak.speak(requests))
    assert [speech.samples.tobytes() for speech in one] == [speech.samples.tobytes() for speech in two]
    assert all(speech.phones and speech.sample_rate == 22050 for speech in one)


@needs_espeak
def test_a_voice_that_does_not_exist_and_a_caller_that_stops_early_are_no_trouble():
    with pytest.raises(HeadwaterError, match=r"no voice en-us"):
        list(espeak.speak([espeak.Request("one", "en-us+nobody", 170, 50, 50, 1)]))
    many = [espeak.Request("one two three", "en-us+f1", 170, 50, 50, 1)] * 50
    speech = espeak.speak(many)
    assert len(next(speech).samples) > 1000
    speech.close()  # type: ignore[attr-defined]


@needs_espeak
def test_data_in_a_very_deep_folder_is_found(tmp_path, monkeypatch):
    """The library cuts the path of its data off at 160 bytes: a virtual environment may lie deeper."""
    import espeakng_loader

    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    (deep / "espeak-ng-data").symlink_to(espeakng_loader.get_data_path())
    (tmp_path / "espeakng_loader.py").write_text(
        f"def get_library_path(): return {espeakng_loader.get_library_path()!r}\ndef get_data_path(): return {str(deep / 'espeak-ng-data')!r}\n"
    )
    requests = [espeak.Request("one two", "en-us+f1", 170, 50, 50, 1)]
    (expected,) = espeak.speak(requests)
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = espeak.speak(requests)
    assert found.samples.tobytes() == expected.samples.tobytes()


def test_without_the_wheel_the_advice_names_it_and_its_licence(monkeypatch, tmp_path):
    from importlib import metadata

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(demo.metadata, "version", missing)
    with pytest.raises(UsageError, match=r"pip install headwater\[demo\].*GPL-3"):
        demo_folder(tmp_path)
    monkeypatch.setattr(espeak.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install headwater\[demo\].*GPL-3"):
        list(espeak.speak([]))


def test_a_cache_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((UsageError, HeadwaterError), match=r"HEADWATER_CACHE|espeakng"):
        demo_folder(tmp_path / "file")
