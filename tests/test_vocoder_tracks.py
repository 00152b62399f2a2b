"""F0 that is kept on disk: found again where everything is the same, computed where anything is not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import Answer
from headwater.downstream.vocoder.scoring import Resyntheses
from voices import RATE, done, voice, words

from headwater.vocoder import tracks
from headwater.vocoder.copy_synthesis import world
from headwater.vocoder.distances import world_distances
from headwater.vocoder.f0 import Tracking, extract_f0, track
from headwater.vocoder.tracks import kept_track

pytest.importorskip("pyworld", reason="F0 and WORLD need pyworld")

TRACKING = Tracking("dio")


@pytest.fixture(autouse=True)
def computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty store, and the trackers that were at work since."""
    monkeypatch.setenv("HEADWATER_STORE", str(tmp_path / "store"))
    asked: list[str] = []

    def counted(samples: np.ndarray, rate: int, tracking: Tracking) -> np.ndarray:
        asked.append(tracking.tracker)
        return track(samples, rate, tracking)

    monkeypatch.setattr(tracks, "track", counted)
    return asked


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "store" / "f0").rglob("*.f0"))


def test_a_track_is_computed_once_and_read_back_to_the_bit(computed: list[str], tmp_path: Path) -> None:
    wav = voice(0.4, 120)
    first, again = kept_track(wav, RATE, TRACKING), kept_track(wav.copy(), RATE, TRACKING)
    assert computed == ["dio"] and len(files(tmp_path)) == 1
    assert first.dtype == again.dtype == np.float64 and (first > 0).any()
    assert np.array_equal(first, again) and np.array_equal(again, track(wav, RATE, TRACKING))
    again[0] = 1  # what is given out may be written to


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said["wav"].__setitem__(5, 0.1),
        lambda said: said.update(rate=22050),
        lambda said: said.update(tracker="harvest"),
        lambda said: said.update(floor_hz=60.0),
        lambda said: said.update(ceiling_hz=500.0),
        lambda said: said.update(period_ms=10.0),
    ],
    ids=["audio", "rate", "tracker", "floor", "ceiling", "period"],
)
def test_other_audio_or_settings_are_computed(change: Callable[[dict[str, Any]], None], computed: list[str]) -> None:
    said: dict[str, Any] = {"wav": voice(0.2, 120), "rate": RATE, **asdict(TRACKING)}
    kept_track(said["wav"].copy(), said["rate"], TRACKING)
    change(said)
    wav, rate = said.pop("wav"), said.pop("rate")
    found = kept_track(wav, rate, Tracking(**said))
    assert len(computed) == 2 and np.array_equal(found, track(wav, rate, Tracking(**said)))


def test_another_version_of_pyworld_is_asked_anew(computed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    wav = voice(0.2, 120)
    kept_track(wav, RATE, TRACKING)
    monkeypatch.setattr("pyworld.__version__", "0.0")
    kept_track(wav, RATE, TRACKING)
    assert len(computed) == 2


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-8], lambda c: c[:40] + b"\xff" + c[41:], lambda c: b"", lambda c: c[:7]]
)
def test_a_damaged_file_is_computed_again_and_mended(
    damage: Callable[[bytes], bytes], computed: list[str], tmp_path: Path
) -> None:
    wav = voice(0.2, 120)
    first = kept_track(wav, RATE, TRACKING)
    (file,) = files(tmp_path)
    content = file.read_bytes()
    file.write_bytes(damage(content))
    assert np.array_equal(kept_track(wav, RATE, TRACKING), first) and len(computed) == 2
    assert file.read_bytes() == content


def test_nothing_is_lost_where_nothing_can_be_kept(
    computed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("HEADWATER_STORE", str(tmp_path / "file"))
    wav = voice(0.2, 120)
    assert np.array_equal(kept_track(wav, RATE, TRACKING), kept_track(wav, RATE, TRACKING)) and len(computed) == 2


def test_many_at_once_leave_whole_files(tmp_path: Path) -> None:
    wavs = [voice(0.1, 100 + 10 * (number % 3)) for number in range(12)]
    found: dict[int, np.ndarray] = {}

    def ask(number: int) -> None:
        found[number] = kept_track(wavs[number], RATE, TRACKING)

    workers = [threading.Thread(target=ask, args=(number,)) for number in range(len(wavs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(np.array_equal(found[number], track(wavs[number], RATE, TRACKING)) for number in found)
    assert len(found) == 12 and len(files(tmp_path)) == 3
    assert not [file for file in (tmp_path / "store").rglob("*") if file.is_file() and file.suffix != ".f0"]


def test_a_second_run_reads_what_the_first_one_found(
    computed: list[str], command: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Resyntheses, "pictures", lambda self: {})
    monkeypatch.setattr("headwater.results.report.draw", lambda *arguments, **settings: {})
    rows = ["path,speaker,split"]
    for number, split in enumerate(["train", "dev", "test"]):
        soundfile.write(tmp_path / f"{number}.wav", voice(0.2, 110 + 20 * number), RATE)
        rows.append(f"{number}.wav,s{number},{split}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    line = words(tmp_path / "list.csv", "vocoder_nsf")
    done(command(*line, "first"))
    assert sorted(computed) == 3 * ["dio+stonemask"] + [
        "harvest"
    ]  # what training and scoring hear; the measures of the test
    done(command(*line, "second", "--seed", 5))
    assert len(computed) == 4
    for name in ("third", "fourth"):
        done(
            command(
                "run",
                "-d",
                "vocoder_copy",
                "-v",
                "world",
                "--data",
                tmp_path / "list.csv",
                "-p",
                name,
                "--seed",
                len(name),
            )
        )
    assert computed[4:] == ["harvest"]  # of WORLD's own limits, not of the measures


def test_originals_are_tracked_once_for_all_systems_and_copies_are_not_kept(
    computed: list[str], tmp_path: Path
) -> None:
    wav = torch.from_numpy(voice(0.3, 120)).float()
    kept = [world_distances(wav, wav * level, RATE, find=kept_track) for level in (0.5, 0.9)]
    assert computed == ["harvest"] and len(files(tmp_path)) == 1
    assert kept == [world_distances(wav, wav * level, RATE) for level in (0.5, 0.9)]
    assert torch.equal(world(wav, RATE, find=kept_track), world(wav, RATE))
    assert torch.equal(extract_f0(wav, RATE, find=kept_track), extract_f0(wav, RATE))
    world(wav, RATE, find=kept_track), extract_f0(wav, RATE, find=kept_track)
    assert computed == ["harvest", "harvest", "dio+stonemask"] and len(files(tmp_path)) == 3
