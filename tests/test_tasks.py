"""The tasks from the command line to the result, on tiny corpora and the demo."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from corpora import make_corpus, make_labels, make_trials

import headwater
from headwater.audio import read
from headwater.data.corpus import Utterance
from headwater.metrics import Ratio, eer
from headwater.results.files import read_rows
from headwater.train.classification import ClassificationAccumulator
from headwater.train.task import Item, make_batch

QUICK = ("-o", "runner.total_steps=30,,runner.eval_step=10,,runner.log_step=10,,runner.save_step=10")
Command = Callable[..., Any]


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture()
def corpus(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "corpus", "csv", speakers=3, utterances=5)


@pytest.mark.parametrize("layout", ["csv", "librispeech", "voxceleb", "kaldi", "folder", "split_folder"])
def test_speaker_identification_from_every_layout(layout: str, command: Command, tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "corpus", layout, speakers=3, utterances=5)
    answer = command("run", "-u", "fbank_no_cmvn", "-d", "speaker", "--data", data, "-p", "run", *QUICK)
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
    answer = command("run", "-u", "fbank_no_cmvn", "-d", task, "--limit", 24, "-p", "run", *QUICK)
    assert answer.code == 0, answer.err
    assert answer.out.strip().splitlines()[-1].startswith(("result", "WARNING"))
    metric = next(iter(result_of(Path("run"))["metrics"]["test"].values()))
    low, high = metric["ci95"]
    assert low <= metric["value"] <= high
    assert metric["chance"] is not None


def test_two_runs_of_one_command_give_the_same_bits(command: Command, corpus: Path) -> None:
    for place in ("one", "two"):
        assert (
            command(
                "run",
                "-u",
                "mel",
                "-d",
                "phone",
                "--data",
                corpus,
                "-o",
                f"data.labels={make_labels(corpus.parent)}",
                "-p",
                place,
                *QUICK,
            ).code
            == 0
        )
    for file in ("model.safetensors", "scores/test.jsonl", "scores/dev.jsonl"):
        assert Path("one", file).read_bytes() == Path("two", file).read_bytes()
    one, two = result_of(Path("one")), result_of(Path("two"))
    assert (one["metrics"], one["history"]) == (two["metrics"], two["history"])


def test_another_seed_gives_other_weights(command: Command, corpus: Path) -> None:
    for seed in (1, 2):
        assert (
            command(
                "run",
                "-u",
                "fbank_no_cmvn",
                "-d",
                "speaker",
                "--data",
                corpus,
                "--seed",
                seed,
                "-p",
                f"run{seed}",
                *QUICK,
            ).code
            == 0
        )
    assert Path("run1/model.safetensors").read_bytes() != Path("run2/model.safetensors").read_bytes()


def test_the_same_command_again_prints_the_result_without_training(command: Command, corpus: Path) -> None:
    line = ("run", "-u", "fbank_no_cmvn", "-d", "speaker", "--data", corpus, *QUICK)
    first = command(*line)
    folders = list(Path("result/downstream").iterdir())
    before = {file: file.stat().st_mtime_ns for file in folders[0].rglob("*") if file.is_file()}
    again = command(*line)
    assert "finished" in again.out
    assert [row for row in first.out.splitlines() if row.startswith("test")] == [
        row for row in again.out.splitlines() if row.startswith("test")
    ]
    assert {file: file.stat().st_mtime_ns for file in folders[0].rglob("*") if file.is_file()} == before
    assert len(folders) == 1


def test_a_run_folder_is_enough_to_score_and_predict(command: Command, corpus: Path, tmp_path: Path) -> None:
    assert command("run", "-u", "fbank_no_cmvn", "-d", "speaker", "--data", corpus, "-p", "run", *QUICK).code == 0
    Path("run").rename(tmp_path / "moved")
    again = command("run", "-m", "evaluate", "-e", tmp_path / "moved", "--out", "again.jsonl")
    assert again.code == 0, again.err
    assert Path("again.jsonl").read_bytes() == (tmp_path / "moved/scores/test.jsonl").read_bytes()
    rows = {row["id"]: row["prediction"] for row in read_rows(tmp_path / "moved/scores/test.jsonl")}
    wavs = {file.stem: file for file in corpus.parent.rglob("*.wav") if file.stem in rows}
    answer = command("run", "-m", "predict", "-e", tmp_path / "moved", *wavs.values(), "--out", "answers.csv")
    assert answer.code == 0, answer.err
    with open("answers.csv", newline="") as file:
        assert {Path(row["id"]).stem: row["prediction"] for row in csv.DictReader(file)} == rows


def test_predictions_of_frames_say_their_time(command: Command, corpus: Path) -> None:
    labels = make_labels(corpus.parent)
    assert (
        command(
            "run", "-u", "stft_mag", "-d", "phone", "--data", corpus, "-o", f"data.labels={labels}", "-p", "run", *QUICK
        ).code
        == 0
    )
    wav = next(corpus.parent.rglob("*.wav"))
    answer = command("run", "-m", "predict", "-e", "run", wav)
    (row,) = [json.loads(line) for line in answer.out.splitlines()]
    assert (row["first_centre_s"], row["step_s"]) == (0.0, 0.02)
    assert len(row["prediction"]) == headwater.load("stft_mag").frames(len(read(wav)))


@pytest.mark.parametrize("upstream", ["fbank", "mel", "stft_mag", "spectrogram"])
def test_every_label_is_scored_exactly_once_whatever_the_stride(upstream: str, command: Command, corpus: Path) -> None:
    labels = make_labels(corpus.parent)
    assert (
        command(
            "run", "-u", upstream, "-d", "phone", "--data", corpus, "-o", f"data.labels={labels}", "-p", "run", *QUICK
        ).code
        == 0
    )
    counts = {line.split()[0]: len(line.split()) - 1 for line in labels.read_text().splitlines()}
    for split in ("dev", "test"):
        for row in read_rows(Path(f"run/scores/{split}.jsonl")):
            assert row["total"] == counts[row["id"]]


def test_labels_find_their_frame_by_time_not_by_index(command: Command, tmp_path: Path) -> None:
    """A tone that starts at a known sample: the linear probe on centred frames must place it as well as on unpadded ones."""
    from corpora import CLASSES

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
    answer = command("run", "-u", "fbank", "-d", "speaker", "-p", "run", *QUICK)
    last = answer.out.strip().splitlines()[-1]
    assert last.startswith("WARNING")
    assert "zero by construction" in last
    assert result_of(Path("run"))["metrics"]["test"]["accuracy"]["value"] < 15


def test_verification_of_raw_embeddings_is_the_cosine_of_means(command: Command, corpus: Path) -> None:
    trials = make_trials(corpus.parent)
    answer = command(
        "run",
        "-u",
        "fbank_no_cmvn",
        "-d",
        "speaker_verification",
        "--data",
        corpus,
        "-o",
        f"data.trials={trials}",
        "-p",
        "run",
    )
    assert answer.code == 0, answer.err
    model = headwater.load("fbank_no_cmvn")
    means = {
        file.stem: model.extract([read(file)]).last_hidden_state[0].double().mean(0)
        for file in corpus.parent.rglob("*.wav")
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


def test_a_trial_list_alone_is_enough(command: Command, tmp_path: Path, corpus: Path) -> None:
    trials = make_trials(corpus.parent)
    answer = command("run", "-u", "fbank_no_cmvn", "-d", "sv", "--data", trials, "-p", "run")
    assert answer.code == 0, answer.err
    assert result_of(Path("run"))["metrics"]["test"]["eer"]["n"] == len(trials.read_text().splitlines())


def test_a_trained_embedding_verifies_and_is_scored_again(command: Command, corpus: Path) -> None:
    trials = make_trials(corpus.parent)
    line = (
        "run",
        "-u",
        "fbank_no_cmvn",
        "-d",
        "sv",
        "--data",
        corpus,
        "-o",
        f"data.trials={trials},,task.embedding=trained",
        "-p",
        "run",
        *QUICK,
    )
    answer = command(*line)
    assert answer.code == 0, answer.err
    assert "not one of unseen speakers" in answer.out
    assert command("run", "-m", "evaluate", "-e", "run", "--out", "again.jsonl").code == 0
    assert Path("again.jsonl").read_bytes() == Path("run/scores/test.jsonl").read_bytes()


def test_classify_takes_any_column(command: Command, tmp_path: Path, corpus: Path) -> None:
    rows = list(csv.DictReader(corpus.read_text().splitlines()))
    for row in rows:
        row["mood"] = "high" if row["speaker"] == rows[0]["speaker"] else "low"
    with corpus.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    answer = command(
        "run",
        "-u",
        "fbank_no_cmvn",
        "-d",
        "classify",
        "--data",
        corpus,
        "-o",
        "data.label_column=mood",
        "-p",
        "run",
        *QUICK,
    )
    assert answer.code == 0, answer.err
    assert {row["label"] for row in read_rows(Path("run/scores/test.jsonl"))} == {"high", "low"}


def test_a_plugin_is_copied_into_the_run(command: Command, corpus: Path, tmp_path: Path, fresh_registry: None) -> None:
    from test_contract import PLUGIN

    from headwater import registry

    plugin = tmp_path / "my_model.py"
    plugin.write_text(PLUGIN)
    answer = command("run", "--plugin", plugin, "-u", "MyModel", "-d", "speaker", "--data", corpus, "-p", "run", *QUICK)
    assert answer.code == 0, answer.err
    assert result_of(Path("run"))["upstream"]["weights_sha256"]
    plugin.unlink()
    for kind in registry.registries.values():
        kind.cards.pop("MyModel", None)
    again = command("run", "-m", "evaluate", "-e", "run", "--out", "again.jsonl")
    assert again.code == 0, again.err
    assert Path("again.jsonl").read_bytes() == Path("run/scores/test.jsonl").read_bytes()


def test_a_dry_run_writes_nothing(command: Command, corpus: Path) -> None:
    before = set(Path().rglob("*"))
    answer = command(
        "run",
        "-u",
        "fbank",
        "-d",
        "phone",
        "--data",
        corpus,
        "-o",
        f"data.labels={make_labels(corpus.parent)}",
        "--dry-run",
    )
    assert answer.code == 0, answer.err
    assert {
        path for path in set(Path().rglob("*")) - before if path.name != "phones.txt" and "classes" not in path.name
    } == set()


def test_bad_audio_is_skipped_only_where_asked_and_counted(command: Command, corpus: Path) -> None:
    broken = next(corpus.parent.rglob("*.wav"))
    broken.write_bytes(b"RIFF")
    assert command("run", "-u", "fbank_no_cmvn", "-d", "speaker", "--data", corpus, "-p", "run", *QUICK).code == 3
    assert not Path("run").exists()
    answer = command(
        "run", "-u", "fbank_no_cmvn", "-d", "speaker", "--data", corpus, "--skip-bad-audio", "-p", "run", *QUICK
    )
    assert answer.code == 0, answer.err
    assert [row["path"] for row in result_of(Path("run"))["data"]["skipped"]] == [str(broken)]


def test_settings_of_the_front_end_reach_it_and_name_another_run(command: Command, corpus: Path) -> None:
    line = ("run", "-u", "fbank", "-d", "speaker", "--data", corpus, *QUICK)
    assert command(*line).code == 0
    assert command(*line, "-o", "upstream.config.cmvn.use_cmvn=false").code == 0
    one, two = sorted(Path("result/downstream").iterdir())
    assert (one / "model.safetensors").read_bytes() != (two / "model.safetensors").read_bytes()


def test_two_runs_make_a_table_and_a_comparison(command: Command, corpus: Path) -> None:
    for upstream in ("fbank_no_cmvn", "stft_mag"):
        assert command("run", "-u", upstream, "-d", "speaker", "--data", corpus, "-p", upstream, *QUICK).code == 0
    table = command("table", "fbank_no_cmvn", "stft_mag")
    assert table.code == 0, table.err
    assert "fbank_no_cmvn" in table.out
    assert command("table", "fbank_no_cmvn", "stft_mag", "--out", "t.csv").code == 0
    assert len(list(csv.DictReader(Path("t.csv").read_text().splitlines()))) == 2
    compared = command("compare", "fbank_no_cmvn", "stft_mag")
    assert compared.code == 0, compared.err
    assert "interval" in compared.out


def test_folds_pool_to_one_figure(command: Command, corpus: Path) -> None:
    rows = list(csv.DictReader(corpus.read_text().splitlines()))
    for fold in range(2):
        table = corpus.with_name(f"fold{fold}.csv")
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=["path", "speaker", "split"], extrasaction="ignore")
            writer.writeheader()
            for index, row in enumerate(rows):
                turn = (index + 2 * fold) % 5
                writer.writerow({**row, "split": "test" if turn in (0, 1) else "dev" if turn == 2 else "train"})
        assert (
            command("run", "-u", "fbank_no_cmvn", "-d", "speaker", "--data", table, "-p", f"run{fold}", *QUICK).code
            == 0
        )
    rows_of = [read_rows(Path(f"run{fold}/scores/test.jsonl")) for fold in range(2)]
    answer = command("table", "--pool", "run0", "run1", "--format", "csv")
    assert answer.code == 0, answer.err
    pooled = next(csv.DictReader(answer.out.splitlines()))
    joined = [row for part in rows_of for row in part]
    assert float(pooled["accuracy"]) == pytest.approx(100 * np.mean([row["correct"] for row in joined]))


@pytest.mark.parametrize(
    "line", [["ls"], ["ls", "upstreams"], ["show", "fbank"], ["show", "phone"], ["doctor"], ["--help"], ["--version"]]
)
def test_verbs_answer(line: list[str], command: Command) -> None:
    answer = command(*line)
    assert answer.code == 0, answer.err
    assert answer.out.strip()


def test_check_names_what_holds(command: Command) -> None:
    answer = command("check", "upstream", "fbank")
    assert answer.code == 0
    assert "10 of 10" in answer.out


def test_the_wheel_installs_and_works_from_an_empty_folder(tmp_path: Path) -> None:
    """The wheel holds experts and recipes under one name; nothing of the clone is on the path."""
    import subprocess
    import sys
    import zipfile

    from conftest import ROOT

    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", "result", "__pycache__", "*cache*"))
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    shutil.rmtree(source)
    (tmp_path / "empty").mkdir()
    program = (
        "import sys; sys.argv = ['headwater', *sys.argv[1:]]; from headwater.cli.main import entry; sys.exit(entry())"
    )
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    for line in (["ls"], ["show", "fbank"], ["run", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *line],
            cwd=tmp_path / "empty",
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def test_another_source_of_a_plugin_is_another_run(
    command: Command, corpus: Path, tmp_path: Path, fresh_registry: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights may be the same: a changed forward must never answer with the old result."""
    import sys

    from test_contract import PLUGIN

    plugin = tmp_path / "my_model.py"
    line = ("run", "--plugin", plugin, "-u", "MyModel", "-d", "speaker", "--data", corpus, *QUICK)
    for source in (PLUGIN, PLUGIN.replace("self.net(x)[0]", "self.net(-x)[0]")):
        plugin.write_text(source)
        for name in [name for name in sys.modules if name.startswith("headwater_plugin")]:
            monkeypatch.delitem(sys.modules, name)
        answer = command(*line)
        assert answer.code == 0, answer.err
        assert "finished" not in answer.out
    assert len(list(Path("result/downstream").iterdir())) == 2


def test_a_run_that_starts_from_other_weights_is_another_run(command: Command, corpus: Path) -> None:
    line = ("run", "-u", "fbank_no_cmvn", "-d", "speaker", "--data", corpus, *QUICK)
    assert command(*line).code == 0
    first = next(Path("result/downstream").iterdir())
    assert command(*line, "-i", first).code == 0
    one, two = sorted(Path("result/downstream").iterdir(), key=lambda folder: folder != first)
    assert (one / "model.safetensors").read_bytes() != (two / "model.safetensors").read_bytes()


def test_another_version_of_the_audio_is_another_run_and_another_place_is_not(
    command: Command, corpus: Path, tmp_path: Path
) -> None:
    """Noise added to a corpus changes no name, label or length: the numbers of the clean one would be printed for it."""
    line = ("run", "-u", "fbank_no_cmvn", "-d", "speaker", *QUICK, "--data")
    moved, noisy = tmp_path / "moved", tmp_path / "noisy"
    for copy in (moved, noisy):
        shutil.copytree(corpus.parent, copy)
    for file in noisy.rglob("*.wav"):
        samples, rate = soundfile.read(file)
        soundfile.write(file, samples + 1e-2 * np.random.default_rng(0).standard_normal(len(samples)), rate)
    assert "finished" not in command(*line, corpus).out
    assert "finished" in command(*line, moved / corpus.name).out
    assert "finished" not in command(*line, noisy / corpus.name).out


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
    done = command("run", "-u", "fbank_no_cmvn", "-d", "speaker_frame", "--data", data, *QUICK, "-n", "frames")
    assert done.code == 0, done.err
    # 0.4 s are 38 frames, 1.2 s are 118: always to say ben is right of 118 in 156.
    for split in ("dev", "test"):
        chance = result_of(Path("result/downstream/frames"))["metrics"][split]["accuracy"]["chance"]
        assert chance == pytest.approx(100 * 118 / 156)
    again = command("run", "-m", "evaluate", "-e", "result/downstream/frames", "--data", other)
    assert "chance 50.00 %" in again.out


def test_a_run_is_opened_from_any_folder_and_on_a_corpus_laid_out_otherwise(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_corpus(tmp_path / "tree", "librispeech", speakers=3, utterances=5)
    ids = sorted(file.stem for file in tree.rglob("*.*") if file.suffix in (".flac", ".wav"))
    for split, start in (("train", 0), ("dev", 3), ("test", 4)):
        step = [name for number, name in enumerate(ids) if (number % 5 < 3 if start == 0 else number % 5 == start)]
        (tmp_path / f"{split}.txt").write_text("\n".join(step) + "\n")
    lists = ",,".join(f"data.{split}_list={split}.txt" for split in ("train", "dev", "test"))
    folder = tree.relative_to(tmp_path)
    done = command("run", "-u", "fbank_no_cmvn", "-d", "speaker", "--data", folder, "-o", lists, *QUICK, "-n", "one")
    assert done.code == 0, done.err
    rows = [f"{file},{file.parent.parent.name},test" for file in tree.rglob("*.*") if file.stem in ids[:1]]
    (tmp_path / "other.csv").write_text("path,speaker,split\n" + "\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path / "tree")
    run = tmp_path / "result" / "downstream" / "one"
    for line in (
        ("-m", "evaluate", "-e", run),
        ("-m", "evaluate", "-e", run, "--data", tmp_path / "other.csv"),
        ("-c", run / "config.yaml", "--dry-run"),
        ("-e", run),
    ):
        said = command("run", *line)
        assert said.code == 0, said.err


@pytest.mark.parametrize("flag", [("-t", "dev"), ("--out", "scores.jsonl")])
def test_a_flag_of_evaluation_is_not_ignored_in_training(flag: tuple[str, str], command: Command, corpus: Path) -> None:
    done = command("run", "-u", "fbank", "-d", "speaker", "--data", corpus, *flag)
    assert done.code == 2 and flag[0] in done.err


def test_moved_trials_are_the_same_run(command: Command, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "trials.txt").write_bytes(make_trials(corpus.parent).read_bytes())
    moved = tmp_path / "moved"
    shutil.copytree(corpus.parent, moved)
    line = ("run", "-u", "fbank_no_cmvn", "-d", "speaker_verification", "-o", "data.trials=trials.txt", "--data")
    assert "finished" not in command(*line, corpus).out
    assert "finished" in command(*line, moved / corpus.name).out


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


def test_another_corpus_without_splits_is_scored_whole(command: Command, corpus: Path, tmp_path: Path) -> None:
    assert command("run", "-u", "fbank_no_cmvn", "-d", "speaker", "--data", corpus, "-p", "run", *QUICK).code == 0
    rows = list(csv.DictReader(corpus.read_text().splitlines()))
    lines = [f"{row['path']},{row['speaker']}" for row in rows]
    (corpus.parent / "unsplit.csv").write_text("\n".join(["path,speaker", *lines]) + "\n")
    answer = command(
        "run", "-m", "evaluate", "-e", "run", "--data", corpus.parent / "unsplit.csv", "--out", "all.jsonl"
    )
    assert answer.code == 0, answer.err
    assert len(read_rows(Path("all.jsonl"))) == len(rows)


def test_made_splits_of_classify_share_no_speaker(command: Command, tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "corpus", "csv", speakers=10, utterances=3, seconds=0.2)
    rows = list(csv.DictReader(data.read_text().splitlines()))
    speakers = sorted({row["speaker"] for row in rows})
    lines = [
        f"{row['path']},{row['speaker']},{'even' if speakers.index(row['speaker']) % 2 else 'odd'}" for row in rows
    ]
    (data.parent / "unsplit.csv").write_text("\n".join(["path,speaker,label", *lines]) + "\n")
    answer = command(
        "run", "-u", "fbank_no_cmvn", "-d", "classify", "--data", data.parent / "unsplit.csv", "-p", "run", *QUICK
    )
    assert answer.code == 0, answer.err
    dev, test = ({row["speaker"] for row in read_rows(Path(f"run/scores/{split}.jsonl"))} for split in ("dev", "test"))
    assert dev and test and not dev & test
    assert result_of(Path("run"))["data"]["splits"]["train"]["speakers"] == 10 - len(dev | test)


def test_bundled_weights_stand_in_for_those_that_are_gone(
    command: Command, corpus: Path, tmp_path: Path, fresh_registry: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_contract import PLUGIN

    plugin = tmp_path / "my_model.py"
    plugin.write_text(
        "import os\n" + PLUGIN.replace("torch.manual_seed(1)", 'torch.manual_seed(int(os.environ["MY_SEED"]))')
    )
    monkeypatch.setenv("MY_SEED", "1")
    line = ("run", "--plugin", plugin, "-u", "MyModel", "-d", "speaker", "--data", corpus, *QUICK)
    assert command(*line, "-p", "plain").code == 0
    assert command(*line, "-p", "bundled", "--bundle").code == 0
    monkeypatch.setenv("MY_SEED", "2")
    assert command("run", "-m", "evaluate", "-e", "plain").code == 1
    answer = command("run", "-m", "evaluate", "-e", "bundled", "--out", "again.jsonl")
    assert answer.code == 0, answer.err
    assert Path("again.jsonl").read_bytes() == Path("bundled/scores/test.jsonl").read_bytes()


def test_labels_of_other_classes_are_refused_in_evaluation(command: Command, corpus: Path) -> None:
    """The same numbers under other names would be scored as if they were the same phones."""
    labels = make_labels(corpus.parent)
    line = ("run", "-u", "mel", "-d", "phone", "--data", corpus, "-o", f"data.labels={labels}", "-p", "run", *QUICK)
    assert command(*line).code == 0
    names = (corpus.parent / "phone_classes.txt").read_text()
    (corpus.parent / "phone_classes.txt").write_text(names.replace("AA", "ZZ"))
    answer = command("run", "-m", "evaluate", "-e", "run")
    assert answer.code == 3
    assert "trained on" in answer.err
