"""Judges of resyntheses: what they say, of whom, and what cannot judge."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Answer
from corpora import make_corpus, make_labels, make_trials
from headwater.downstream.vocoder.judges import Judge, load_judges
from headwater.downstream.vocoder.scoring import Resyntheses
from torch import Tensor
from voices import STEPS, done, result, words

from headwater.audio import read
from headwater.audio.io import resampled
from headwater.config import DataConfig
from headwater.data.corpus import Utterance
from headwater.errors import UsageError
from headwater.results.files import read_rows
from headwater.train.task import Item

pytest.importorskip("pyworld", reason="F0 and WORLD need pyworld")

Command = Callable[..., Answer]
LOW = "upstream.config.sample_rate=8000"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of three speakers with phones and trials, and finished runs on it."""
    from headwater.cli.main import main
    from headwater.cli.shell import guarded

    place = tmp_path_factory.mktemp("judges")
    corpus = make_corpus(place)
    labels, trials = f"data.labels={make_labels(place)}", f"data.trials={make_trials(place)}"
    runs = {
        "speaker": ["-d", "speaker_sid", "-o", STEPS],
        "low": ["-d", "speaker", "-o", f"{STEPS},,{LOW}"],
        "frames": ["-d", "speaker_frame", "-o", STEPS],
        "verification": ["-d", "speaker_verification", "-o", trials],
        "phone": ["-d", "phone", "-o", f"{STEPS},,runner.total_steps=40,,{labels}"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headwater.results.report.draw", lambda *arguments, **settings: {})
        for name, line in runs.items():
            line = ["run", "-u", "fbank_no_cmvn", *line, "--data", str(corpus), "-p", str(place / name)]
            assert guarded(main, line) == 0, name
    return place


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Drawing takes longer than these runs."""
    monkeypatch.setattr(Resyntheses, "pictures", lambda self: {})
    monkeypatch.setattr("headwater.results.report.draw", lambda *arguments, **settings: {})
    yield


def data_of(folder: Path, **settings: str) -> DataConfig:
    return DataConfig(path=str(folder / "corpus.csv"), **settings)  # type: ignore[arg-type]


def utterances(folder: Path) -> tuple[list[Item], list[Tensor]]:
    """The test of the corpus."""
    files = sorted((folder / "wav").rglob("*-04.wav"))
    wavs = [read(file) for file in files]
    items = [
        Item(Utterance(file.stem, file, speaker=file.parent.name), len(wav))
        for file, wav in zip(files, wavs, strict=True)
    ]
    return items, wavs


def only(folder: Path, name: str, **settings: str) -> Judge:
    (judge,) = load_judges([str(folder / name)], data_of(folder, **settings), 1337)
    return judge


@pytest.mark.parametrize("name", ["speaker", "verification", "low"])
def test_a_speaker_judge_compares_what_its_run_embeds(folder: Path, name: str) -> None:
    judge, (items, wavs) = only(folder, name), utterances(folder)
    assert [row["speaker_cosine"] for row in judge.columns(items, wavs, wavs)] == pytest.approx([1.0] * 3)
    others = [wav.flip(0) * 0.3 + 0.02 * torch.randn(len(wav)) for wav in wavs]
    found = judge.columns(items, wavs, others)
    parts = judge.parts
    assert (parts.upstream.sample_rate == 8000) is (name == "low")

    def embedding(wav: Tensor) -> Tensor:
        heard = torch.from_numpy(resampled(wav.numpy(), 16000, 8000)) if name == "low" else wav
        mean = parts.upstream.extract([heard]).last_hidden_state[0].double().mean(0)
        weights = {key: value.double() for key, value in parts.probe.state_dict().items()}
        matrix = weights.get("head.head.projector.weight")
        return mean if matrix is None else matrix @ mean + weights["head.head.projector.bias"]

    for row, one, two in zip(found, wavs, others, strict=True):
        expected = torch.nn.functional.cosine_similarity(embedding(one), embedding(two), 0)
        assert row["speaker_cosine"] == pytest.approx(float(expected), abs=1e-5)
        assert float(expected) < 0.999


def test_silence_that_is_embedded_as_nothing_has_no_cosine(folder: Path) -> None:
    judge, (items, wavs) = only(folder, "verification"), utterances(folder)
    judge.parts.probe.head.register_forward_hook(lambda module, inputs, output: output * 0)
    assert [row["speaker_cosine"] for row in judge.columns(items, wavs, wavs)] == [None] * 3


def test_a_phone_judge_is_right_about_the_original_as_often_as_its_own_run_says(folder: Path) -> None:
    judge, (items, wavs) = only(folder, "phone", labels=str(folder / "phones.txt")), utterances(folder)
    rows = {row["id"]: row for row in read_rows(folder / "phone" / "scores" / "test.jsonl")}
    silent = [torch.zeros_like(wav) for wav in wavs]
    for item, same, lost in zip(
        items, judge.columns(items, wavs, wavs), judge.columns(items, wavs, silent), strict=True
    ):
        said = rows[item.id]
        assert (same["phone_correct_original"], same["phone_total"]) == (said["correct"], said["total"])
        assert same["phone_correct"] == lost["phone_correct_original"] == said["correct"]
    assert sum(row["phone_correct"] for row in judge.columns(items, wavs, silent)) < sum(  # type: ignore[misc]
        row["correct"] for row in rows.values()
    )


def test_without_labels_a_phone_judge_says_how_often_it_answers_the_same(folder: Path) -> None:
    judge, (items, wavs) = only(folder, "phone"), utterances(folder)
    assert [measure.name for measure in judge.measures] == ["phone_agreement"] and "no labels" in judge.note()
    frames = [(len(wav) - 400) // 160 + 1 for wav in wavs]
    same = judge.columns(items, wavs, wavs)
    assert [(row["phone_same"], row["phone_total"]) for row in same] == list(zip(frames, frames, strict=True))
    other = judge.columns(items, wavs, [wav.flip(0) for wav in wavs])
    assert all(row["phone_same"] < total for row, total in zip(other, frames, strict=True))  # type: ignore[operator]


def test_a_run_asks_its_judges_about_the_test_and_learns_the_same_without_them(folder: Path, command: Command) -> None:
    corpus, judges = folder / "corpus.csv", [str(folder / "speaker"), str(folder / "phone")]
    labels = f"data.labels={folder / 'phones.txt'}"
    asked = f"task.judges=[{', '.join(judges)}]"
    done(command(*words(corpus, "vocoder"), "plain"))
    done(command(*words(corpus, "vocoder", asked, labels), "judged"))
    assert Path("plain/model.safetensors").read_bytes() == Path("judged/model.safetensors").read_bytes()
    found, rows = result("judged"), read_rows(Path("judged/scores/test.jsonl"))
    test = found["metrics"]["test"]
    assert list(found["metrics"]["dev"]) == ["mel_l1"] and not any(
        "speaker_cosine" in row for row in read_rows(Path("judged/scores/dev.jsonl"))
    )
    assert test["speaker_cosine"]["value"] == pytest.approx(np.mean([row["speaker_cosine"] for row in rows]))
    assert test["speaker_cosine"]["clusters"] == 3 and test["speaker_cosine"]["ci95"] is not None
    total = sum(row["phone_total"] for row in rows)
    for name, column in (("phone_accuracy", "phone_correct"), ("phone_accuracy_original", "phone_correct_original")):
        assert test[name]["value"] == pytest.approx(100 * sum(row[column] for row in rows) / total)
    assert [judge["run"] for judge in found["data"]["judges"]] == judges
    report = Path("judged/report.html").read_text(encoding="utf-8")
    assert "speaker_cosine: judged by" in report and "<td>phone_accuracy</td>" in report
    assert found["data"]["sha256"] != result("plain")["data"]["sha256"]
    # A finished run may be judged afterwards.
    done(command("run", "-m", "evaluate", "-e", "plain", "-o", f"{asked},,{labels}", "--out", "later.jsonl"))
    assert read_rows(Path("later.jsonl")) == rows


def test_a_judge_of_other_weights_in_the_same_folder_is_another_run(folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder / "speaker", tmp_path / "judge")
    (before,) = load_judges([str(tmp_path / "judge")], data_of(folder), 1337)
    assert before.sha256 == only(folder, "speaker").sha256
    weights = load_file(tmp_path / "judge" / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, tmp_path / "judge" / "model.safetensors")
    (after,) = load_judges([str(tmp_path / "judge")], data_of(folder), 1337)
    assert after.sha256 != before.sha256
    config = tmp_path / "judge" / "config.yaml"
    config.write_text(re.sub(r"(?m)^seed: \d+$", "seed: 4", config.read_text(encoding="utf-8")), encoding="utf-8")
    (other,) = load_judges([str(tmp_path / "judge")], data_of(folder), 1337)
    assert other.weights_sha256 == after.weights_sha256 and other.sha256 != after.sha256


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["nowhere"], "nowhere is no finished run"),
        (["begun"], "begun is no finished run"),
        (["frames"], "frames is a run of speaker_frame .* neither an embedding of utterances nor phones"),
        (["speaker", "low"], "speaker and .*low judge the same"),
    ],
)
def test_what_cannot_judge_is_named(folder: Path, names: list[str], said: str) -> None:
    (folder / "begun").mkdir(exist_ok=True)
    (folder / "begun" / "config.yaml").write_bytes((folder / "speaker" / "config.yaml").read_bytes())
    with pytest.raises(UsageError, match=rf"task\.judges: .*{said}"):
        load_judges([str(folder / name) for name in names], data_of(folder), 1337)


def test_a_judge_at_another_rate_and_one_without_ears_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from headwater.downstream.vocoder import judges

    from headwater.config import FeatureSet

    opened = judges.reopen

    def at_another_rate(*arguments: object, **settings: object) -> object:
        parts = opened(*arguments, **settings)  # type: ignore[arg-type]
        parts.task.spec = replace(parts.task.spec, sample_rate=8000)
        return parts

    def on_features(*arguments: object, **settings: object) -> object:
        parts = opened(*arguments, **settings)  # type: ignore[arg-type]
        parts.config.upstream.features = FeatureSet(kind="x", dim=1, sample_rate=16000, stride=160, offset=200)
        return parts

    for change, said in ((at_another_rate, "a task at 8000 Hz"), (on_features, "precomputed features")):
        monkeypatch.setattr(judges, "reopen", change)
        with pytest.raises(UsageError, match=said):
            load_judges([str(folder / "speaker")], data_of(folder), 1337)
