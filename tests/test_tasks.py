"""Each task from the command line to its result, on tiny corpora and the demo: what is scored, against which chance, and with which classes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from corpora import CLASSES, make_corpus, make_labels, make_trials
from task_runs import Command, result_of, short_phones, short_run

import headwater
from headwater.audio import read
from headwater.data.corpus import Utterance
from headwater.metrics import Ratio, eer
from headwater.results.files import read_rows
from headwater.train.classification import ClassificationAccumulator
from headwater.train.task import Item, make_batch


@pytest.mark.parametrize("layout", ["csv", "librispeech", "voxceleb", "kaldi", "folder", "split_folder"])
def test_speaker_identification_from_every_layout(layout: str, command: Command, tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "corpus", layout, speakers=3, utterances=5)
    answer = command(*short_run("fbank_no_cmvn", "speaker", "--data", data, "-p", "run"))
    assert answer.code == 0, answer.err
    result = result_of(Path("run"))
    assert set(result["data"]["splits"]) == {"train", "dev", "test"}
    assert result["metrics"]["test"]["accuracy"]["n"] == result["data"]["splits"]["test"]["utterances"]


@pytest.mark.parametrize(
    "task",
    [
        "speaker",
        "speaker_frame",
        "speaker_sid",
        "speaker_verification",
        "phone",
        "phone_1hidden",
        "phone_concat",
        "classify",
    ],
)
def test_every_task_runs_on_the_demo(task: str, command: Command) -> None:
    answer = command(*short_run("fbank_no_cmvn", task, "--limit", 24, "-p", "run"))
    assert answer.code == 0, answer.err
    assert answer.out.strip().splitlines()[-1].startswith(("result", "WARNING"))
    metric = next(iter(result_of(Path("run"))["metrics"]["test"].values()))
    low, high = metric["ci95"]
    assert low <= metric["value"] <= high
    assert metric["chance"] is not None


@pytest.mark.parametrize("upstream", ["fbank", "mel", "stft_mag", "spectrogram"])
def test_every_label_is_scored_exactly_once_whatever_the_stride(
    upstream: str, command: Command, tiny_corpus: Path
) -> None:
    labels = make_labels(tiny_corpus.parent)
    assert command(*short_phones(upstream, tiny_corpus, labels, "-p", "run")).code == 0
    counts = {line.split()[0]: len(line.split()) - 1 for line in labels.read_text().splitlines()}
    for split in ("dev", "test"):
        for row in read_rows(Path(f"run/scores/{split}.jsonl")):
            assert row["total"] == counts[row["id"]]


def test_labels_find_their_frame_by_time_not_by_index(command: Command, tmp_path: Path) -> None:
    """A tone that starts at a known sample: the linear probe on centred frames must place it as well as on unpadded ones."""
    data = make_corpus(tmp_path / "corpus", "csv", speakers=3, utterances=10, seconds=1.0)
    labels = make_labels(data.parent, speakers=3, utterances=10, seconds=1.0)
    found = {}
    for upstream in ("fbank", "mel"):
        command(
            "run",
            "-u",
            upstream,
            "-d",
            "phone",
            "--data",
            data,
            "-o",
            f"data.labels={labels}",
            "-p",
            upstream,
            "-o",
            "runner.total_steps=200",
        )
        found[upstream] = result_of(Path(upstream))["metrics"]["test"]["accuracy"]["value"]
    assert len(CLASSES) == 4
    assert min(found.values()) > 60
    assert abs(found["fbank"] - found["mel"]) < 12


def test_an_interval_with_chance_in_it_says_so_with_the_cause(command: Command) -> None:
    answer = command(*short_run("fbank", "speaker", "-p", "run"))
    last = answer.out.strip().splitlines()[-1]
    assert last.startswith("WARNING")
    assert "zero by construction" in last
    assert result_of(Path("run"))["metrics"]["test"]["accuracy"]["value"] < 15


def test_verification_of_raw_embeddings_is_the_cosine_of_means(command: Command, tiny_corpus: Path) -> None:
    trials = make_trials(tiny_corpus.parent)
    answer = command(
        "run",
        "-u",
        "fbank_no_cmvn",
        "-d",
        "speaker_verification",
        "--data",
        tiny_corpus,
        "-o",
        f"data.trials={trials}",
        "-p",
        "run",
    )
    assert answer.code == 0, answer.err
    model = headwater.load("fbank_no_cmvn")
    means = {
        file.stem: model.extract([read(file)]).last_hidden_state[0].double().mean(0)
        for file in tiny_corpus.parent.rglob("*.wav")
    }
    rows = read_rows(Path("run/scores/test.jsonl"))
    for row in rows:
        one, two = row["id"].split()[:2]
        cosine = torch.nn.functional.cosine_similarity(means[one], means[two], dim=0)
        assert row["score"] == pytest.approx(float(cosine), abs=1e-6)
    expected = eer([row["score"] for row in rows if row["target"]], [row["score"] for row in rows if not row["target"]])
    assert result_of(Path("run"))["metrics"]["test"]["eer"]["value"] == pytest.approx(100 * expected)
    assert {row["speaker1"] for row in rows} <= {f"s{index}" for index in range(100)} | {
        row["speaker2"] for row in rows
    }


def test_a_trial_list_alone_is_enough(command: Command, tmp_path: Path, tiny_corpus: Path) -> None:
    trials = make_trials(tiny_corpus.parent)
    answer = command("run", "-u", "fbank_no_cmvn", "-d", "sv", "--data", trials, "-p", "run")
    assert answer.code == 0, answer.err
    assert result_of(Path("run"))["metrics"]["test"]["eer"]["n"] == len(trials.read_text().splitlines())


def test_a_trained_embedding_verifies_and_is_scored_again(command: Command, tiny_corpus: Path) -> None:
    trials = make_trials(tiny_corpus.parent)
    line = short_run(
        "fbank_no_cmvn", "sv", "--data", tiny_corpus, "-o", f"data.trials={trials},,task.embedding=trained", "-p", "run"
    )
    answer = command(*line)
    assert answer.code == 0, answer.err
    assert "not one of unseen speakers" in answer.out
    assert command("run", "-m", "evaluate", "-e", "run", "--out", "again.jsonl").code == 0
    assert Path("again.jsonl").read_bytes() == Path("run/scores/test.jsonl").read_bytes()


def test_classify_takes_any_column(command: Command, tmp_path: Path, tiny_corpus: Path) -> None:
    rows = list(csv.DictReader(tiny_corpus.read_text().splitlines()))
    for row in rows:
        row["mood"] = "high" if row["speaker"] == rows[0]["speaker"] else "low"
    with tiny_corpus.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    answer = command(
        *short_run("fbank_no_cmvn", "classify", "--data", tiny_corpus, "-o", "data.label_column=mood", "-p", "run")
    )
    assert answer.code == 0, answer.err
    assert {row["label"] for row in read_rows(Path("run/scores/test.jsonl"))} == {"high", "low"}


def test_made_splits_of_classify_share_no_speaker(command: Command, tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "corpus", "csv", speakers=10, utterances=3, seconds=0.2)
    rows = list(csv.DictReader(data.read_text().splitlines()))
    speakers = sorted({row["speaker"] for row in rows})
    lines = [
        f"{row['path']},{row['speaker']},{'even' if speakers.index(row['speaker']) % 2 else 'odd'}" for row in rows
    ]
    (data.parent / "unsplit.csv").write_text("\n".join(["path,speaker,label", *lines]) + "\n")
    answer = command(*short_run("fbank_no_cmvn", "classify", "--data", data.parent / "unsplit.csv", "-p", "run"))
    assert answer.code == 0, answer.err
    dev, test = ({row["speaker"] for row in read_rows(Path(f"run/scores/{split}.jsonl"))} for split in ("dev", "test"))
    assert dev and test and not dev & test
    assert result_of(Path("run"))["data"]["splits"]["train"]["speakers"] == 10 - len(dev | test)


def test_chance_counts_what_accuracy_counts_on_the_data_that_is_scored(command: Command, tmp_path: Path) -> None:
    def write(name: str, seconds: dict[str, float]) -> Path:
        rows = []
        for speaker, length in seconds.items():
            for split in ("train", "dev", "test"):
                file = tmp_path / f"{name}-{speaker}-{split}.wav"
                noise = np.random.default_rng(len(rows)).standard_normal(int(16000 * length))
                soundfile.write(file, 0.1 * noise, 16000)
                rows.append(f"{file.name},{speaker},{split}")
        table = tmp_path / f"{name}.csv"
        table.write_text("path,speaker,split\n" + "\n".join(rows) + "\n")
        return table

    data, other = write("data", {"anna": 0.4, "ben": 1.2}), write("other", {"anna": 0.4, "ben": 0.4})
    done = command(*short_run("fbank_no_cmvn", "speaker_frame", "--data", data, "-n", "frames"))
    assert done.code == 0, done.err
    # 0.4 s are 38 frames, 1.2 s are 118: always to say ben is right of 118 in 156.
    for split in ("dev", "test"):
        chance = result_of(Path("result/downstream/frames"))["metrics"][split]["accuracy"]["chance"]
        assert chance == pytest.approx(100 * 118 / 156)
    again = command("run", "-m", "evaluate", "-e", "result/downstream/frames", "--data", other)
    assert "chance 50.00 %" in again.out


def test_scoring_many_classes_takes_one_confusion_whatever_the_number_of_batches() -> None:
    """VoxCeleb1 has 1,251 speakers: a confusion a batch was 12 MiB each, gigabytes for its test split."""
    names = [str(number) for number in range(300)]
    counted = ClassificationAccumulator((Ratio("accuracy", "correct", "total"),), names)
    generator = torch.Generator().manual_seed(0)
    for batch in range(20):
        items = [Item(Utterance(f"{batch}-{row}", Path("x.wav")), 16000, {"class": row}) for row in range(4)]
        counted.add(
            torch.randn(4, 300, generator=generator), make_batch(items, torch.ones(4, dtype=torch.int64), 160, 200.0)
        )
    held = [value for entry in counted._pending for value in entry if isinstance(value, torch.Tensor)]
    assert sum(tensor.numel() for tensor in held) < 20 * 4 * 10
    assert counted.confusion().sum() == 80
    assert counted.confusion()[:4].sum(1).tolist() == [20, 20, 20, 20]
    assert counted.result()["accuracy"].chance == 25.0


def test_bad_audio_is_skipped_only_where_asked_and_counted(command: Command, tiny_corpus: Path) -> None:
    broken = next(tiny_corpus.parent.rglob("*.wav"))
    broken.write_bytes(b"RIFF")
    assert command(*short_run("fbank_no_cmvn", "speaker", "--data", tiny_corpus, "-p", "run")).code == 3
    assert not Path("run").exists()
    answer = command(*short_run("fbank_no_cmvn", "speaker", "--data", tiny_corpus, "--skip-bad-audio", "-p", "run"))
    assert answer.code == 0, answer.err
    assert [row["path"] for row in result_of(Path("run"))["data"]["skipped"]] == [str(broken)]
