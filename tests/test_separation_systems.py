"""What separation's systems do with their settings, and what training and reports make of mixtures: one behaviour a test."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from headwater.downstream.separation import scoring
from mixture_corpora import RATE, make_list, voice, write_rows, write_voices
from separation_tasks import task_of
from torch import Tensor

from headwater.config import DataConfig
from headwater.data.corpus import Utterance
from headwater.data.dynamic import Levels, Pool, Voice
from headwater.data.mixtures import Mixture, Part
from headwater.errors import DataError
from headwater.metrics.extras import Extra
from headwater.separation.losses import gram, si_snr
from headwater.separation.onerest import one_and_rest_loss
from headwater.separation.rescale import least_squares
from headwater.train.task import Batch, Draw, Item, Sounds, make_batch

SIZE = 4000
VOICES = torch.from_numpy(np.stack([voice(speaker, 0, SIZE) for speaker in (0, 2, 4)])).float()


def batch_of(sources: Tensor) -> Batch:
    parts = tuple(Part(Path(f"{number}.wav"), speaker=str(number)) for number in range(len(sources)))
    item = Item(Utterance("a", Path("a.wav"), mixture=Mixture(parts)), SIZE, {"count": len(sources)})
    return make_batch([item], torch.tensor([SIZE]), 1, 0.0, [Sounds({"mixture": sources.sum(0)}, {"sources": sources})])


# systems


def test_the_end_of_what_superbs_head_gives_is_silenced_as_s3prl_does_unless_masks_are_of_the_log() -> None:
    wav = 0.1 * VOICES[0].tanh()
    wav[3800] = 1.0  # louder than all before, at the end
    for log1p in (False, True):
        built, _ = task_of("separation", f"task.superb.log1p={str(log1p).lower()}")
        frames = int(built.system.stft.frames(torch.tensor(SIZE)))
        masks = torch.ones(1, 2, frames, built.system.stft.bins)
        made = built.system.estimates(masks, batch_of(torch.stack([wav, 0 * wav])))[0]
        torch.testing.assert_close(made[:, :3800], wav[:3800].expand(2, -1), atol=1e-4, rtol=0)
        assert bool((made[:, 3800] == 0).all()) != log1p and bool((made[:, 3800] > 0.9).all()) == log1p


def test_frames_of_an_upstream_lie_beside_those_of_the_encoder_that_are_nearest_in_time() -> None:
    built, upstream = task_of("separation_joint")
    system, count = built.system, 40
    assert upstream.offset > upstream.stride  # else its frames could be counted from the first sample
    scale = RATE / upstream.sample_rate
    times = (upstream.offset + upstream.stride * torch.arange(count)) * scale
    given = system._beside(times[None, :, None], torch.tensor([count]), torch.zeros(1, SIZE))[0, 0]
    centres = system.net.frame_centres(SIZE)
    inside = (centres >= times[0]) & (centres <= times[-1])
    assert int(inside.sum()) > 200 and bool(
        (given[inside] - centres[inside]).abs().max() <= upstream.stride * scale / 2
    )


class Bands(torch.nn.Module):
    """Takes out the lowest voice that is there."""

    bands = torch.fft.rfft(VOICES).abs() > 1e-3

    def forward(self, wav: Tensor, lengths: Any = None, beside: Any = None) -> Tensor:
        spectrum = torch.fft.rfft(wav[0])
        energies = torch.stack([(spectrum * band).abs().square().sum() for band in self.bands])
        band = self.bands[int((energies > 1e-2 * energies.max()).nonzero()[0])]
        one = torch.fft.irfft(spectrum * band, wav.shape[1])
        return torch.stack([one, wav[0] - one])[None]


@pytest.mark.parametrize(
    ("settings", "count"),
    [("task.take.most=5", 3), ("task.take.most=1", 1), ("task.take.quiet_db=-5", 2), ("task.take.quiet_db=-1", 1)],
)
def test_one_and_rest_goes_on_as_long_as_its_settings_say(
    settings: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, _ = task_of("separation_one_and_rest", settings)
    monkeypatch.setattr(built.system, "net", Bands())
    levels = torch.tensor([1.0, 1.0, 0.5])[:, None]  # one out leaves 5 ninths of the energy, two out a ninth
    batch = batch_of(levels * VOICES)
    found = built.system.eval()(torch.zeros(1, SIZE, 1), torch.tensor([SIZE]), batch.inputs)
    assert len(found[0]) == count


def test_one_and_rest_is_not_trained_on_a_piece_in_which_a_speaker_is_silent() -> None:
    built, _ = task_of("separation_one_and_rest")
    outputs = VOICES[None, :2] + 0.1 * VOICES[2]
    counts = [int(built.loss(outputs, batch_of(s))[1]) for s in (VOICES[:2], torch.stack([VOICES[0], 0 * VOICES[1]]))]
    assert counts == [1, 0]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_rest_counts_for_as_much_as_one_speaker(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    sources, outputs = (torch.randn(1, n, 300, generator=generator) for n in (count, 2))
    costs = []
    for one in range(count):
        rest = sources.sum(1, keepdim=True) - sources[:, one : one + 1]
        own = si_snr(gram(outputs[:, :1], sources[:, one : one + 1]))
        costs.append(-float(own) - float(si_snr(gram(outputs[:, 1:], rest))) / (count - 1))
    found = one_and_rest_loss(outputs, sources)
    assert float(found.loss) == pytest.approx(min(costs), abs=1e-3)
    assert int(found.speaker) == costs.index(min(costs))


def test_a_stream_says_whose_levels_its_answers_have() -> None:
    causal = ("task.net.causal=true", "task.net.norm=cumulative")
    for settings, said in (
        ((), "levels are the network's own: least_squares needs the whole sound, and the loss si_snr left them open"),
        (("task.loss=snr30",), "levels are the network's own: least_squares needs the whole sound"),
        (("task.rescale=unchanged",), None),
    ):
        built, _ = task_of("separation_convtasnet", *causal, *settings)
        built.stream(built.system)
        assert [note for note in built.notes if note.startswith("levels")] == ([said] if said else [])


# mixtures


def test_mixtures_are_cut_to_the_shortest_source_or_padded_to_the_longest(tmp_path: Path) -> None:
    data = make_list(tmp_path)
    found = {}
    for length in ("min", "max"):
        built, _ = task_of("separation_convtasnet", f"task.length={length}", "task.dynamic=false")
        built.data = DataConfig(path=str(data))
        found[length] = {item.id: item.num_samples for items in built.corpora().values() for item in items}
    assert set(found["min"]) == set(found["max"])
    assert all(found["min"][name] <= found["max"][name] for name in found["min"])
    assert any(found["min"][name] < found["max"][name] for name in found["min"])


def test_mixtures_are_drawn_of_each_number_of_speakers_that_is_asked_for(tmp_path: Path) -> None:
    built, _ = task_of("separation_one_and_rest", "task.speakers=[2,3]", "task.dynamic=true")
    built.data = DataConfig(path=str(make_list(tmp_path)))
    item = built.corpora()["train"][0]
    drawn = [built.draw(item, Draw(0, 0, number)) for number in range(60)]
    counts = Counter(len(one.utterance.mixture.parts) for one in drawn if one.utterance.mixture is not None)
    assert set(counts) == {2, 3} and min(counts.values()) > 15
    assert all(one.labels["count"] == len(one.utterance.mixture.parts) for one in drawn if one.utterance.mixture)


def test_speakers_are_drawn_as_often_as_they_have_files_and_others_at_levels_off_the_first() -> None:
    files = {"a": 1, "b": 2, "c": 7}
    voices = [Voice(Part(Path(f"{who}{n}"), speaker=who), 800) for who, count in files.items() for n in range(count)]
    pool = Pool(voices, Levels(deviation=5.0, offset=-6.0, offset_deviation=0.5))
    drawn = [pool.draw(2, np.random.default_rng(seed)) for seed in range(3000)]
    first = Counter(pair[0].part.speaker for pair in drawn)
    for who, count in files.items():
        assert first[who] / 3000 == pytest.approx(count / 10, abs=0.03)
    levels = np.array([[voice.part.level for voice in pair] for pair in drawn])
    assert levels[:, 0].std() > 4
    assert (levels[:, 1] - levels[:, 0]).mean() == pytest.approx(-6, abs=0.1)
    assert (levels[:, 1] - levels[:, 0]).std() < 0.6


@pytest.mark.parametrize(
    ("split", "where", "said"),
    [
        (None, None, None),
        ("train", None, None),
        ("test", None, r"a: 1\.wav is silent from 0\.250 s on, for 0\.500 s, .* trim or remove the file"),
        ("dev", None, "trim or remove the file"),
        ("train", "list.csv:7", r"list\.csv:7: 1\.wav is silent, .* remove the mixture"),
    ],
)
def test_a_silent_window_of_a_file_stops_no_training_and_is_named_where_it_would_be_scored(
    split: str | None, where: str | None, said: str | None
) -> None:
    built, _ = task_of("separation_convtasnet")
    parts = tuple(Part(Path(f"{number}.wav"), speaker=str(number), skip=2000 * number) for number in range(2))
    item = Item(Utterance("a", Path("a.wav"), split=split, mixture=Mixture(parts, where=where)), SIZE, {"count": 2})
    sources = torch.stack([VOICES[0], 0 * VOICES[1]])
    if said is None:
        assert torch.equal(built.sounds(item, sources.sum(0), sources).labels["sources"], sources)
        return
    with pytest.raises(DataError, match=said):
        built.sounds(item, sources.sum(0), sources)


def test_training_goes_on_where_a_drawn_window_is_silent(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import soundfile

    monkeypatch.setenv("HEADWATER_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("headwater.train.runner.illustrate", lambda *given, **named: None)
    rows = []
    for path in write_voices(tmp_path, speakers=6, files=1):
        speaker = path.parent.name
        split = ("train", "train", "dev", "dev", "test", "test")[int(speaker[1:])]
        if speaker == "s0":  # most of its windows are silent
            soundfile.write(path, np.concatenate([voice(0, 0, 800), np.zeros(16000)]), RATE)
        rows.append([path.relative_to(tmp_path).as_posix(), speaker, split])
    data = write_rows(tmp_path / "voices.csv", "path,speaker,split", rows)
    small = "task.net.N=16,,task.net.B=8,,task.net.H=8,,task.net.Sc=8,,task.net.X=1,,task.net.R=1,,task.mixtures=2,,task.dynamic=true"
    steps = "runner.total_steps=6,,runner.eval_step=6,,runner.save_step=6,,batch.size=2"
    at = f"task.rate={RATE},,upstream.config.sample_rate={RATE}"
    said = command(
        *("run", "-u", "waveform", "-d", "separation_convtasnet", "--data", str(data), "-p", "run"),
        *("-o", f"{small},,{steps},,{at}"),
    )
    assert said.code == 0, said.err


# scores


def test_sdr_is_measured_to_100_db_so_that_no_mixture_outweighs_all_others() -> None:
    built, _ = task_of("separation_convtasnet", "task.quality=false")
    built.restore({})
    found = []
    for mixed in (VOICES[:2], torch.stack([VOICES[0], 1e-9 * VOICES[1]])):
        scores = built.score("test")
        scores.add(mixed[None], batch_of(mixed))
        found.append(scores.rows()[0])
    assert 90 < found[0]["sdri"] < 110  # from about 0 dB to the bound
    assert abs(found[1]["sdri"]) <= 200 and math.isfinite(found[1]["sdri"])


def test_what_is_heard_has_the_levels_of_what_is_predicted() -> None:
    built, _ = task_of("separation_convtasnet")
    built.restore({})
    own, wav = VOICES[:2], VOICES[:2].sum(0)
    heard = built.score("test")._heard(wav, torch.stack([0.01 * own[0], 300 * own[1]]), own)
    for number in (1, 2):
        torch.testing.assert_close(heard[f"estimate {number}"].wav, own[number - 1], atol=1e-4, rtol=0)
    assert torch.equal(heard["mixture"].wav, wav)
    torch.testing.assert_close(least_squares(own, wav), own, atol=1e-4, rtol=0)


def test_perceptual_scores_are_of_each_source_and_its_own_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    alike = Extra("math", "", ("stoi",), lambda source, made, rate: {"stoi": float(np.corrcoef(source, made)[0, 1])})
    monkeypatch.setattr(scoring, "EXTRAS", (alike,))
    built, _ = task_of("separation_convtasnet")
    built.restore({})
    scores = built.score("test")
    scores.add(VOICES[None, [1, 0]], batch_of(VOICES[:2]))
    assert scores.rows()[0]["stoi"] == pytest.approx(1.0, abs=1e-6)
