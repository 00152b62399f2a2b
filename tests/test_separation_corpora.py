"""What separation trains on and is tested by: noise that is drawn, mixtures that are the sum of their sources, one test for all systems, no lost tails."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT
from mixture_corpora import RATE, SPLITS, make_list, voice, write_rows
from separation_tasks import task_of

from headwater.data.batching import plan_epoch, plan_evaluation
from headwater.data.mixtures import pieces
from headwater.errors import DataError
from headwater.train.corpora import Reader
from headwater.train.task import Draw, Item


def with_noise(folder: Path) -> Path:
    """A list of mixtures of two, each with one of three noises."""
    rows = [line.split(",") for line in make_list(folder).read_text().splitlines()]
    for number in range(3):
        soundfile.write(folder / f"n{number}.wav", 0.02 * np.random.default_rng(number).standard_normal(900), RATE)
    noisy = [[*row, f"n{number % 3}.wav"] for number, row in enumerate(rows[1:])]
    return write_rows(folder / "noisy.csv", ",".join([*rows[0], "noise"]), noisy)


def test_mixtures_that_are_drawn_have_the_noise_that_tests_have(tmp_path: Path) -> None:
    settings = ("task.dynamic=true", "task.noise=true")
    built, _ = task_of("separation_convtasnet", *settings, data=with_noise(tmp_path))
    items = built.corpora()
    drawn = [built.draw(items["train"][0], Draw(1, 0, number)).utterance.mixture for number in range(30)]
    for mixture in [*drawn, *(item.utterance.mixture for item in items["test"])]:
        assert mixture is not None and [part.noise for part in mixture.parts] == [False, False, True]
    assert {mixture.parts[-1].path.name for mixture in drawn if mixture} == {"n0.wav", "n1.wav", "n2.wav"}
    assert drawn == [built.draw(items["train"][0], Draw(1, 0, number)).utterance.mixture for number in range(30)]
    item = built.draw(items["train"][0], Draw(1, 0, 0))
    wav, parts = Reader(built.data, RATE).both(item.utterance)
    assert parts is not None and bool(parts[2].any())
    sounds = built.sounds(item, wav, parts)
    torch.testing.assert_close(sounds.labels["sources"], parts[:2])
    torch.testing.assert_close(sounds.inputs["mixture"], parts.sum(0))
    # The voices are those that are drawn without noise.
    quiet, _ = task_of("separation_convtasnet", "task.dynamic=true", data=tmp_path / "noisy.csv")
    clean = quiet.draw(quiet.corpora()["train"][0], Draw(1, 0, 0)).utterance.mixture
    assert clean is not None and drawn[0] is not None and clean.parts == drawn[0].parts[:2]


def test_noise_that_nothing_names_cannot_be_drawn(tmp_path: Path) -> None:
    built, _ = task_of("separation_convtasnet", "task.dynamic=true", "task.noise=true", data=make_list(tmp_path))
    with pytest.raises(DataError, match=r"mix2.csv: task.noise=true, and no mixture of train names noise"):
        built.corpora()


def stored(folder: Path, sources: Sequence[np.ndarray], mixture: np.ndarray | None = None) -> Path:
    """A list of three mixtures of these sources, one in each split, as 16-bit files."""
    for name, wav in {"m": sum(sources) if mixture is None else mixture, "a": sources[0], "b": sources[1]}.items():
        soundfile.write(folder / f"{name}.wav", wav, RATE, "PCM_16")
    rows = [[split, split, "m.wav", "a.wav", "b.wav"] for split in ("train", "dev", "test")]
    return write_rows(folder / "stored.csv", "id,split,mixture,source1,source2", rows)


CONSECUTIVE = ("task.dynamic=false", "task.segments=consecutive", "task.segment_seconds=0.1")


def heard(built: object, items: Sequence[Item]) -> None:
    """All that training would hear."""
    for item in items:
        built.sounds(item, *Reader(built.data, RATE).both(item.utterance))  # type: ignore[attr-defined]


def test_a_mixture_of_16_bits_is_the_sum_of_its_sources_where_it_is_all_but_silent_too(tmp_path: Path) -> None:
    fade = np.where(np.arange(4000) < 2400, 1.0, 1e-4)  # its end lies within three steps of 16 bits
    data = stored(tmp_path, [fade * voice(speaker, 0, 4000) for speaker in (0, 3)])
    built, _ = task_of("separation_convtasnet", *CONSECUTIVE, data=data)
    items = built.corpora()
    assert len(items["train"]) == 5
    heard(built, items["train"])


def test_a_piece_of_a_mixture_of_other_sources_is_still_told(tmp_path: Path) -> None:
    one, two = voice(0, 0, 4000), voice(3, 0, 4000)
    data = stored(tmp_path, [one, two], one + 0.9 * two)
    built, _ = task_of("separation_convtasnet", *CONSECUTIVE, data=data)
    with pytest.raises(DataError, match=r"stored.csv:2: .*m.wav is not the sum of its sources"):
        heard(built, built.corpora()["train"])


def test_a_source_that_is_constant_is_as_silent_as_one_that_is_zero(tmp_path: Path) -> None:
    data = stored(tmp_path, [voice(0, 0, 4000), np.full(4000, 0.1)])
    built, _ = task_of("separation_oracle", data=data)
    with pytest.raises(DataError, match=r"stored.csv:4: .*b.wav is constant"):
        heard(built, built.corpora()["test"])


def unsplit(folder: Path, kind: str) -> Path:
    if kind == "mixtures":
        rows = [line.split(",") for line in make_list(folder).read_text().splitlines()]
        return write_rows(
            folder / "unsplit.csv", ",".join([rows[0][0], *rows[0][2:]]), [[r[0], *r[2:]] for r in rows[1:]]
        )
    for number in range(60):
        path = folder / "voices" / f"s{number % 30}" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, voice(number % 10, number, 2000), RATE)
    return folder / "voices"


@pytest.mark.parametrize("kind", ["mixtures", "voices"])
def test_what_trains_nothing_is_asked_about_the_test_of_what_trains(kind: str, tmp_path: Path) -> None:
    data, parts, hashes = unsplit(tmp_path, kind), {}, set()
    for name in ("separation_convtasnet", "separation_oracle"):
        built, _ = task_of(name, "task.mixtures=5", "task.dynamic=false", data=data)
        parts[name] = built.corpora()
        hashes.add(built.description["sha256"])
    trained, oracle = parts["separation_convtasnet"], parts["separation_oracle"]
    assert [item.utterance for item in oracle["test"]] == [item.utterance for item in trained["test"]]
    assert 0 < len(oracle["test"]) < len(SPLITS) and "train" in trained and "train" not in oracle
    assert len(hashes) == 1


def test_a_corpus_that_has_a_test_alone_is_enough_for_what_trains_nothing(tmp_path: Path) -> None:
    rows = [line.split(",") for line in make_list(tmp_path).read_text().splitlines()]
    data = write_rows(tmp_path / "test.csv", ",".join(rows[0]), [row for row in rows[1:] if row[1] == "test"])
    built, _ = task_of("separation_oracle", data=data)
    assert {split: len(part) for split, part in built.corpora().items()} == {"test": 3}
    whole, _ = task_of("separation_oracle", "data.splits=whole", data=unsplit(tmp_path, "mixtures"))
    assert {split: len(part) for split, part in whole.corpora().items()} == {"test": len(SPLITS)}


def test_mixtures_of_librispeech_know_the_genders_of_their_speakers(tmp_path: Path) -> None:
    lines = []
    for number, subset in enumerate(["train-clean-100"] * 2 + ["dev-clean"] * 2 + ["test-clean"] * 2):
        place = tmp_path / subset / str(number) / "7"
        place.mkdir(parents=True)
        soundfile.write(place / f"{number}-7-0001.wav", voice(number, 0, 4000), RATE)
        lines.append(f"{number}    | {'FM'[number % 2]} | {subset} | 25.03 | Nobody\n")
    (tmp_path / "SPEAKERS.TXT").write_text(";ID  |SEX| SUBSET           |MINUTES| NAME\n" + "".join(lines))
    built, _ = task_of("separation_oracle", "task.mixtures=4", data=tmp_path)
    items = built.corpora()
    assert {"".join(sorted(item.utterance.labels["genders"])) for item in items["test"]} == {"FM"}
    assert "genders" in {one.key for one in built.spec.breakdowns}


@pytest.fixture(params=["bundled", "shared"])
def tails(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What another project's cutting reaches of files, and what its loader delivers."""
    if request.param == "bundled":
        file = ROOT / "tests/data/separation/lost_tails.json"
    else:
        file = request.getfixturevalue("shared") / "parity/separation/inference/inference.json"
    recorded: dict[str, Any] = json.loads(file.read_text())
    return recorded


def test_no_sample_is_lost_where_other_code_loses_tails(tails: dict[str, Any]) -> None:
    cases = tails["jusper_spliter_eval_chunk32000_least16000"]
    for case in cases:
        whole = case["samples"]
        cuts = pieces(whole, 32000, 16000)
        # Theirs lie half a piece apart, and end with the last whole one.
        assert whole - case["covered_until"] == case["lost_tail"] and len(case["starts"]) == case["chunks"]
        assert cuts[0][0] == 0 and cuts[-1][1] == whole
        assert all(first <= end < last for (_, end), (first, last) in pairwise(cuts))
        assert all(min(whole, 16000) <= last - first <= 32000 for first, last in cuts)
    assert max(case["lost_tail"] for case in cases) == 15999


def test_no_piece_is_left_out_where_another_loader_drops_the_last_batch(tails: dict[str, Any]) -> None:
    recorded = tails["jusper_dataloader_remainder"]
    assert recorded["chunks_available"] - sum(recorded["batches"]) == recorded["chunks_dropped"] == 3
    seconds = np.full(recorded["chunks_available"], 4.0)
    plans = [
        plan_epoch(seconds, size=recorded["batch_size"], max_seconds=1e9, seed=0, epoch=0),
        plan_evaluation(seconds, size=recorded["batch_size"], max_seconds=1e9),
    ]
    for plan in plans:
        assert sorted(np.concatenate(plan).tolist()) == list(range(len(seconds)))
