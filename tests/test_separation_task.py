"""Separation from the command line to the result: every system, drawn mixtures resumed to the bit, whole mixtures scored, answers of exact length, streams."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import Answer
from headwater.downstream.separation.scoring import best_order
from headwater.downstream.separation.settings import READS, SeparationConfig
from mixture_corpora import RATE, make_list, voice, write_rows, write_voices
from separation_tasks import SYSTEMS, task_of
from signals import answer, die_at, result

from headwater.audio.write import Signal
from headwater.config import DataConfig
from headwater.data.corpus import Utterance
from headwater.data.mixtures import Mixture, Part
from headwater.errors import UsageError
from headwater.results.files import read_rows
from headwater.separation.losses import gram, si_sdr
from headwater.settings import validate
from headwater.train.task import Item, Sounds, make_batch
from headwater.train.windows import Block, Windows

Command = Callable[..., Answer]
STEPS = "runner.total_steps=3,,runner.eval_step=3,,runner.save_step=1,,batch.size=3"


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_list(tmp_path_factory.mktemp("mixtures"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A store of each test's own, and reports without drawings, which take longer than all else."""
    monkeypatch.setenv("HEADWATER_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("headwater.train.runner.illustrate", lambda *given, **named: None)


def words(task: str, data: Path, folder: str, *settings: str) -> list[str]:
    upstream, own = SYSTEMS[task]
    return [
        "run",
        "-u",
        upstream,
        "-d",
        task,
        "--data",
        str(data),
        "-p",
        folder,
        "-o",
        ",,".join([STEPS, own, *settings]),
    ]


@pytest.mark.parametrize("task", SYSTEMS)
def test_a_system_trains_and_scores_every_mixture_whole(task: str, command: Command, mixtures: Path) -> None:
    said = command(*words(task, mixtures, "run"))
    assert said.code == 0, said.err
    rows = {row["id"]: row for row in read_rows(Path("run/scores/test.jsonl"))}
    assert set(rows) == {"mix08", "mix09", "mix10"}
    assert {"speaker1", "speaker2", "genders", "snr", "snr_from", "si_sdr", "si_sdri", "sdri"} <= set(rows["mix08"])
    found = result("run")
    first = next(iter(found["metrics"]["test"]))
    assert first == "si_sdri" and found["metrics"]["test"]["si_sdri"]["n"] == 3
    assert set(found["breakdown"]["test"]) == {"snr_from", "genders"}
    assert "sdri" not in found["metrics"]["dev"]
    assert ("counted" in found["metrics"]["dev"]) == (task == "separation_one_and_rest")
    clips = json.loads(Path("run/audio/test/clips.json").read_text())
    assert {"mixture", "estimate 1", "reference 2"} <= set(clips["clips"][0]["files"])
    assert (found["steps"] == 0) == (task == "separation_oracle")


def test_oracles_stand_in_their_order_and_answer_for_no_other_file(command: Command, mixtures: Path) -> None:
    found = {}
    for mask in ("PSM", "IBM", "IRM"):
        assert command(*words("separation_oracle", mixtures, mask, f"task.oracle.mask={mask}")).code == 0
        found[mask] = result(mask)["metrics"]["test"]["si_sdri"]["value"]
    assert found["PSM"] > found["IBM"] > 5 and found["PSM"] > found["IRM"] > 5
    said = command("run", "-m", "predict", "-e", "PSM", mixtures.parent / "s0", "--out", "answers")
    assert said.code == 2 and "an oracle is told the sources" in said.err and not Path("answers").exists()


def test_drawn_mixtures_are_resumed_to_the_bit(
    command: Command, mixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("task.dynamic=true", "task.segments=random", "task.segment_seconds=0.3", "task.levels.speed=0.05")
    whole = words("separation_convtasnet", mixtures, "whole", *settings)
    assert command(*whole).code == 0
    lines = words("separation_convtasnet", mixtures, "cut", *settings)
    go_on = die_at(monkeypatch, 2)
    assert command(*lines).code != 0
    go_on()
    assert command(*lines).code == 0
    assert answer("whole") == answer("cut")
    fixed = words("separation_convtasnet", mixtures, "fixed", "task.dynamic=false")
    assert command(*fixed).code == 0
    assert answer("fixed")["history"] != answer("whole")["history"]


@pytest.mark.parametrize("task", ["separation", "separation_joint", "separation_oracle", "separation_convtasnet"])
def test_a_mixture_alone_is_separated_as_in_a_batch(task: str) -> None:
    built, upstream = task_of(task)
    sources = [
        torch.from_numpy(np.stack([voice(s, n, size) for s in (0, 3)])).float() for n, size in enumerate((3000, 4321))
    ]
    items = [item(f"m{n}", one.shape[1]) for n, one in enumerate(sources)]

    def estimated(chosen: list[int]) -> list[torch.Tensor]:
        own = [sources[n] for n in chosen]
        features = upstream.extract([resample(one.sum(0), upstream.sample_rate) for one in own])
        sounds = [built.sounds(items[n], one.sum(0), one) for n, one in zip(chosen, own, strict=True)]
        stride = upstream.stride * RATE // upstream.sample_rate
        batch = make_batch([items[n] for n in chosen], features.lengths, stride, 0.0, sounds)
        with torch.no_grad():
            return built.system.estimates(
                built.system.eval()(features.last_hidden_state, features.lengths, batch.inputs), batch
            )

    together = estimated([0, 1])
    for number in (0, 1):
        torch.testing.assert_close(together[number], estimated([number])[0], atol=2e-5, rtol=1e-4)
        assert together[number].shape == (2, sources[number].shape[1])


def resample(wav: torch.Tensor, rate: int) -> torch.Tensor:
    from headwater.audio.io import resampled

    return wav if rate == RATE else torch.from_numpy(resampled(wav.numpy(), RATE, rate))


def item(name: str, samples: int, count: int = 2) -> Item:
    parts = tuple(Part(Path(f"{name}-{number}.wav"), speaker=str(number)) for number in range(count))
    return Item(Utterance(name, parts[0].path, mixture=Mixture(parts)), samples, {"count": count})


def test_answers_are_as_long_as_files_of_any_length_and_take_of_them_what_they_can(
    command: Command, mixtures: Path, tmp_path: Path
) -> None:
    window = "task.window_seconds=0.5"
    assert command(*words("separation_convtasnet", mixtures, "run", window)).code == 0
    lengths = (1, 7, 15, 16, 17, 399, 4000, 4001, 5999, 6000, 12345)
    for length in lengths:
        mixed = sum(voice(speaker, 1, 12345)[:length] for speaker in (0, 3, 5))
        soundfile.write(tmp_path / f"in{length:05d}.wav", mixed, RATE)
    files = sorted(tmp_path.glob("in*.wav"))
    said = command("run", "-m", "predict", "-e", "run", *files, "--out", "answers")
    assert said.code == 0, said.err
    rows = [json.loads(line) for line in Path("answers/answers.jsonl").read_text().splitlines()]
    for length, row in zip(lengths, rows, strict=True):
        answers = [soundfile.read(Path("answers") / row[f"source{n}"])[0] for n in (1, 2)]
        # Three speakers in a model of two: there are two answers all the same.
        assert [len(one) for one in answers] == [length] * 2 and "source3" not in row
        mixed = soundfile.read(tmp_path / f"in{length:05d}.wav")[0]
        assert np.square(mixed - sum(answers)).sum() <= 1.01 * np.square(mixed).sum() + 1e-6
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(900), RATE)
    assert command("run", "-m", "predict", "-e", "run", silent, "--out", "quiet").code == 0
    assert not soundfile.read("quiet/silent-source1.wav")[0].any()


def test_a_larger_file_of_answers_is_wider_not_longer(command: Command, tmp_path: Path) -> None:
    from headwater.results.answers import Answers

    wav = torch.from_numpy(voice(0, 0, 8000)).float()
    soundfile.write(tmp_path / "in.wav", wav.numpy(), RATE, "PCM_16")
    soundfile.write(tmp_path / "wide.wav", wav.numpy(), RATE, "FLOAT")
    with Answers(tmp_path / "out", {"in": tmp_path / "in.wav"}) as answers:
        row = answers.write({"id": "in", "source": [Signal(wav, RATE)]})
    sizes = [(tmp_path / name).stat().st_size for name in ("in.wav", "wide.wav", f"out/{row['source1']}")]
    assert sizes[1] / sizes[0] == pytest.approx(2, abs=0.01) and sizes[2] == sizes[0]
    assert len({soundfile.info(tmp_path / name).frames for name in ("in.wav", "wide.wav")}) == 1


def test_two_answers_never_share_a_file(tmp_path: Path) -> None:
    from headwater.results.answers import Answers

    files = {name: tmp_path / f"{name}.wav" for name in ("a", "a-b")}
    wav = Signal(torch.zeros(80), RATE)
    with Answers(tmp_path / "out", files) as answers:
        rows = [answers.write({"id": "a", "b-c": wav}), answers.write({"id": "a-b", "c": wav})]
    assert rows[0]["b-c"] != rows[1]["c"] and len([*(tmp_path / "out").glob("*.wav")]) == 2


def test_windows_are_joined_in_one_order_whatever_the_network_says() -> None:
    built, _ = task_of("separation_convtasnet")
    sources = torch.from_numpy(np.stack([voice(0, 0, 9000), voice(3, 0, 9000)])).float()
    windows = Windows(0.25, 0.125, RATE)
    blocks = []
    for turn, first in enumerate(windows.starts(9000)):
        piece = sources[:, first : first + windows.size]
        swapped = piece.flip(0) if turn % 2 else piece
        blocks.append(Block(first, piece.sum(0), {"source1": swapped[0], "source2": swapped[1]}))
    joined = [torch.stack([part["source1"], part["source2"]]) for part in built.join(iter(blocks), windows)]
    torch.testing.assert_close(torch.cat(joined, 1), sources, atol=1e-5, rtol=1e-5)


def test_a_stream_of_bytes_gives_what_the_file_gives(
    command: Command, mixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    causal = ("task.net.causal=true", "task.net.norm=cumulative", "task.loss=snr30", "task.rescale=unchanged")
    assert command(*words("separation_convtasnet", mixtures, "run", *causal)).code == 0
    mixed = np.round(32767 * (voice(0, 1, 7001) + voice(3, 1, 7001))).clip(-32768, 32767).astype("<i2")
    soundfile.write(tmp_path / "mixed.wav", mixed, RATE)
    assert command("run", "-m", "predict", "-e", "run", tmp_path / "mixed.wav", "--out", "whole").code == 0

    def piped(data: bytes, *arguments: str) -> Answer:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        return command("run", "-m", "predict", "-e", "run", "--stream", *arguments)

    said = piped(mixed.tobytes(), "--out", "stream")
    assert said.code == 0 and "2 ms late" in said.err, said.err
    for number in (1, 2):
        one, two = (soundfile.read(f)[0] for f in (f"whole/mixed-source{number}.wav", f"stream/source{number}.wav"))
        assert len(one) == len(two) == 7001
        np.testing.assert_allclose(one, two, atol=1.1 / 32768)
    assert (
        "middle of a sample" in piped(mixed.tobytes()[:-1], "--out", "odd").err and not Path("odd/source1.wav").exists()
    )
    empty = piped(b"", "--out", "empty")
    assert empty.code == 3 and "no samples came in" in empty.err
    both = command("run", "-m", "predict", "-e", "run", "--stream", "stdin", tmp_path / "mixed.wav")
    assert both.code == 2 and "has no part in it" in both.err


def test_a_stream_says_what_is_closed_and_what_would_have_clipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from headwater.cli.stream import stream, to_files

    built, _ = task_of("separation_convtasnet", "task.net.causal=true", "task.net.norm=cumulative")
    built.restore({})
    parts: Any = SimpleNamespace(task=built, probe=SimpleNamespace(head=built.system), device=torch.device("cpu"))
    with monkeypatch.context() as closed, pytest.raises(UsageError, match="standard output is closed"):
        closed.setattr("sys.stdout", None)
        stream(parts, "stdin", None)
    with monkeypatch.context() as closed, pytest.raises(UsageError, match="standard input is closed"):
        closed.setattr("sys.stdin", None)
        stream(parts, "stdin", tmp_path)
    capsys.readouterr()
    with ExitStack() as stack:
        to_files(tmp_path, RATE, stack)(np.array([[0.5, -1.5], [0.1, 0.2]], dtype=np.float32))
    assert capsys.readouterr().err == (
        f"note       {tmp_path}/source1.wav peaks at 1.5 times full scale: it is written as 32-bit float, unclipped\n"
    )


def test_a_stream_goes_to_standard_output_as_floats() -> None:
    from headwater.cli.stream import pcm, to_pipe

    target = io.BytesIO()
    to_pipe(target)(np.array([[1.0, 2.0], [-3.0, 0.5]], dtype=np.float32))
    assert np.frombuffer(target.getvalue(), "<f4").tolist() == [1.0, -3.0, 2.0, 0.5]
    blocks = list(pcm(io.BytesIO(np.array([32767, -32768, 0], "<i2").tobytes()), 2))
    assert [len(block) for block in blocks] == [2, 1] and float(blocks[0][1]) == -1.0


def test_a_system_that_needs_the_whole_sound_answers_no_stream(command: Command) -> None:
    for name in ("separation", "separation_convtasnet", "separation_joint", "separation_one_and_rest"):
        built, _ = task_of(name)
        with pytest.raises(UsageError, match="causal"):
            built.stream(built.system)


def test_one_and_rest_takes_out_as_many_as_there_are_and_speakers_that_are_not_found_score_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built, _ = task_of("separation_one_and_rest")
    voices = torch.from_numpy(np.stack([voice(s, 0, 4000) for s in (0, 2, 4)])).float()
    bands = torch.fft.rfft(voices).abs() > 1e-3

    class Bands(torch.nn.Module):
        """Takes out the lowest voice that is there."""

        def forward(self, wav: torch.Tensor, lengths: Any = None, beside: Any = None) -> torch.Tensor:
            spectrum = torch.fft.rfft(wav[0])
            energies = torch.stack([(spectrum * band).abs().square().sum() for band in bands])
            one = torch.fft.irfft(spectrum * bands[int((energies > 1e-2 * energies.max()).nonzero()[0])], wav.shape[1])
            return torch.stack([7.0 * one, 0.01 * (wav[0] - one)])[None]

    monkeypatch.setattr(built.system, "net", Bands())
    built.system.eval()
    built.restore({})
    for count in (1, 2, 3):
        own = voices[:count]
        one = item("m", 4000, count)
        batch = make_batch([one], torch.tensor([4000]), 1, 0.0, [Sounds({"mixture": own.sum(0)}, {"sources": own})])
        output = built.system(own.sum(0)[None, :, None], batch.lengths, batch.inputs)
        assert len(output[0]) == count
        if count > 1:
            scores = built.score("dev")
            scores.add(output, batch)
            row = scores.rows()[0]
            assert row["found"] == count and row["right"] == 1 and row["si_sdr"] > 30
            lacking = built.score("dev")
            lacking.add([output[0][:1]], batch)
            row = lacking.rows()[0]
            assert row["right"] == 0
            pairs = si_sdr(gram(own.sum(0)[None, None], own[None]))[0, 0]
            others = [n for n in range(count) if n != 0]
            gained = float(si_sdr(gram(output[0][:1][None], own[None]))[0, 0, 0]) - float(pairs[0])
            assert row["si_sdri"] == pytest.approx(gained / count, abs=1e-3) and len(others) == count - 1


def test_estimates_that_fit_nobody_are_left_out() -> None:
    pairs = torch.tensor([[1.0, 2.0], [9.0, -5.0], [0.0, 8.0], [-3.0, -3.0]])
    assert best_order(pairs).tolist() == [1, 2]
    assert best_order(pairs[:2]).tolist() == [1, 0]


def test_consecutive_pieces_lose_no_sample(mixtures: Path) -> None:
    built, _ = task_of(
        "separation_convtasnet",
        "task.dynamic=false",
        "task.segments=consecutive",
        "task.segment_seconds=0.2",
        "task.shortest_seconds=0.1",
    )
    built.data = DataConfig(path=str(mixtures))
    items = built.corpora()
    pieces: dict[str, list[tuple[int, int]]] = {}
    for one in items["train"]:
        assert one.utterance.mixture is not None and one.utterance.mixture.last is not None
        pieces.setdefault(one.id.partition("/")[0], []).append(
            (one.utterance.mixture.first, one.utterance.mixture.last)
        )
    for found in pieces.values():
        assert found[0][0] == 0 and all(b[0] <= a[1] for a, b in pairwise(found)) and len(found) >= 3
        assert all(0.1 * RATE <= last - first <= 0.2 * RATE for first, last in found)
    whole = sum(max(last for _, last in found) for found in pieces.values())
    entire, _ = task_of("separation_convtasnet", "task.dynamic=false", "task.segments=whole")
    entire.data = built.data
    assert whole == sum(one.num_samples for one in entire.corpora()["train"])


@pytest.mark.parametrize(
    ("task", "data", "settings", "said"),
    [
        ("separation_convtasnet", "mix3", "", "mix3.csv:2: 3 sources, and this system separates 2: -o task.net.speakers=3"),
        ("separation_convtasnet", "unequal", "", "unequal.csv:2: .*b.wav has 790 samples"),
        ("separation_convtasnet", "silent", "task.dynamic=false", r"silent.csv:3: .*quiet.wav is silent"),
        ("separation_oracle", "no_sum", "", "no_sum.csv:2: .*m.wav is not the sum of its sources"),
        ("separation", "mix2", "upstream.name=waveform", "a frame every 0.5 samples at 8000 Hz"),
        ("separation_convtasnet", "mix2", "upstream.name=fbank", "choose -u waveform -o upstream.config.sample_rate=8000"),
        ("separation_convtasnet", "mix2", "task.rate=16000", "Conv-TasNet hears the waveform at 16000 Hz|sample rate of 8000 Hz"),
        ("separation_joint", "mix2", "upstream.name=waveform", "choose another -u"),
        ("separation_convtasnet", "mix2", "task.net.causal=true", "causal: true contradicts norm gLN"),
        ("separation_convtasnet", "mix2", "task.superb.hidden=8", "superb is for the system superb"),
        ("separation_joint", "mix2", "task.net.causal=true,,task.net.norm=BN", "joint cannot be causal"),
        ("separation_convtasnet", "mix2", "task.segments=consecutive", "those of fixed mixtures"),
        ("separation_convtasnet", "mix2", "task.net.speakers=1", "speakers is 2 or more"),
        ("separation", "mix2", "task.superb.speakers=1", "speakers is 2 or more"),
        ("separation_convtasnet", "mix2", "task.segment_seconds=1e-5", "segment_seconds 1e-05 is less than two samples"),
        ("separation_convtasnet", "mix2", "task.segment_seconds=1e306", "task.segment_seconds.: .*less than or equal to 86400"),
    ],
)  # fmt: skip
def test_wrong_use_is_said_with_its_place(
    task: str, data: str, settings: str, said: str, command: Command, broken: dict[str, Path]
) -> None:
    line = words(task, broken[data], "run", *filter(None, [settings]))
    if settings.startswith("upstream.name"):
        line[2] = settings.partition("=")[2]
        line[-1] = line[-1].replace(f",,{settings}", "").replace(f",,upstream.config.sample_rate={RATE}", "")
        if task == "separation_joint":
            line[-1] += f",,upstream.config.sample_rate={RATE}"
    found = command(*line)
    assert found.code in (2, 3) and re.search(said, found.err), found.err
    assert "Traceback" not in found.err and not Path("run/result.json").exists()


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Lists in which something is wrong, beside one that is right."""
    folder = tmp_path_factory.mktemp("broken")
    sounds = {"a": voice(0, 0, 800), "b": voice(1, 0, 790), "c": voice(2, 0, 800), "quiet": np.zeros(800)}
    sounds["m"] = 0.5 * (sounds["a"] + sounds["c"])
    for name, wav in sounds.items():
        soundfile.write(folder / f"{name}.wav", wav, RATE)
    stored = "split,mixture,source1,source2"
    splits = ("train", "dev", "test")
    good = {split: [split, f"{split}.wav", f"{split}1.wav", f"{split}2.wav"] for split in splits}
    for number, split in enumerate(splits):
        one, two = voice(number, 0, 900), voice(number + 3, 1, 900)
        for name, wav in (("", one + two), ("1", one), ("2", two)):
            soundfile.write(folder / f"{split}{name}.wav", wav, RATE)
    make = {
        "unequal": [["test", "m.wav", "a.wav", "b.wav"], *good.values()],
        "silent": [good["test"], ["train", "a.wav", "a.wav", "quiet.wav"], good["dev"]],
        "no_sum": [["test", "m.wav", "a.wav", "c.wav"], *good.values()],
    }
    lists = {name: write_rows(folder / f"{name}.csv", stored, rows) for name, rows in make.items()}
    write_voices(folder)
    return {**lists, "mix2": make_list(folder), "mix3": make_list(folder, 3)}


def test_a_group_of_settings_that_a_system_does_not_read_is_refused_by_every_system() -> None:
    others = {"superb": {"hidden": 4}, "net": {"N": 4}, "oracle": {"mask": "IBM"}, "take": {"most": 2}, "loss": "snr"}
    for system, groups in READS.items():
        for group, value in others.items():
            if group in groups:
                validate(SeparationConfig, {"system": system, group: value})
            else:
                with pytest.raises(UsageError, match=f"{group} is for the system"):
                    validate(SeparationConfig, {"system": system, group: value})


def test_a_corpus_of_single_speakers_is_mixed_without_a_speaker_in_two_splits(command: Command, tmp_path: Path) -> None:
    for path in write_voices(tmp_path / "voices", speakers=12, files=2):
        assert path.is_file()
    said = command(*words("separation_convtasnet", tmp_path / "voices", "run", "task.dynamic=true", "task.mixtures=4"))
    # Twelve speakers give one to dev and one to test: too few for mixtures.
    assert said.code == 3 and "too few for mixtures of 2" in said.err
    rows = [
        [path.relative_to(tmp_path).as_posix(), path.parent.name, split]
        for path in sorted((tmp_path / "voices").rglob("*.wav"))
        for split in [
            ("train" if int(path.parent.name[1:]) < 6 else "dev" if int(path.parent.name[1:]) < 9 else "test")
        ]
    ]
    data = write_rows(tmp_path / "voices.csv", "path,speaker,split", rows)
    said = command(*words("separation_convtasnet", data, "run", "task.dynamic=true", "task.mixtures=4"))
    assert said.code == 0, said.err
    speakers = [
        {row[f"speaker{n}"] for row in read_rows(Path(f"run/scores/{split}.jsonl")) for n in (1, 2)}
        for split in ("dev", "test")
    ]
    assert not speakers[0] & speakers[1] and all(
        math.isfinite(row["si_sdri"]) for row in read_rows(Path("run/scores/test.jsonl"))
    )
