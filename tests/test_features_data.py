"""Precomputed features take the place of audio: the same answers, the time that their folder says, and words where they do not fit."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT, Answer
from corpora import make_corpus, make_labels
from hypothesis import given
from hypothesis import strategies as st

import headwater
from headwater.audio import read
from headwater.config import FeatureSet
from headwater.data import features
from headwater.data.corpus import Utterance
from headwater.data.features import common_features, num_samples, open_features, read_features
from headwater.data.measure import measure
from headwater.data.readers import read_corpus
from headwater.errors import DataError, UsageError
from headwater.nn.upstream import NoFrontend, Upstream
from headwater.preprocess.folder import FeatureFolder, Made, write_array

Run = Callable[..., Answer]
QUICK = ("-o", "runner.total_steps=30,,runner.eval_step=30")


def about(**other: Any) -> FeatureSet:
    return FeatureSet(**{"kind": "toy", "dim": 4, "sample_rate": 16000, "stride": 160, "offset": 200.0, **other})


def dump(corpus: Path, folder: Path, upstream: str) -> Path:
    """The features that an upstream gives for a corpus, as a folder of features."""
    model = headwater.load(upstream)
    described = about(kind=upstream, dim=model.out_dim, stride=model.stride, offset=model.offset)
    target = FeatureFolder(folder, described, {}, "a test")
    target.begin()
    made = []
    for utterance in read_corpus(corpus).utterances:
        states = model.extract([read(utterance.path)]).last_hidden_state[0].numpy()
        write_array(target.file(str(utterance.split), utterance.id), states)
        made.append(Made(utterance, str(utterance.split), len(states)))
    target.finish(made)
    return folder


def toy(folder: Path, files: dict[str, Any], **other: Any) -> Path:
    """A folder of features made by hand."""
    for name, array in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, array)
    (folder / "features.json").write_text(about(**other).model_dump_json())
    return folder


def scores(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "scores" / "test.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("task", "upstream"), [("speaker", "fbank_no_cmvn"), ("phone", "fbank")])
def test_a_probe_on_features_of_a_folder_answers_as_on_the_audio(
    task: str, upstream: str, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_STORE", str(tmp_path / "store"))
    corpus, labels = make_corpus(tmp_path / "corpus"), make_labels(tmp_path / "labels")
    # In the order of the manifest, and of lengths that frames tell exactly, so that both runs draw the same batches.
    header, *rows = corpus.read_text().splitlines()
    corpus.write_text("\n".join([header, *sorted(rows, key=lambda row: (row.split(",")[2], row))]) + "\n")
    for file in corpus.parent.rglob("*.wav"):
        samples, rate = soundfile.read(file, dtype="int16")
        soundfile.write(file, samples[: len(samples) - (len(samples) - 400) % 160], rate)
    folder = dump(corpus, tmp_path / "features", upstream)
    options = (*QUICK, "-o", f"data.labels={labels}") if task == "phone" else QUICK
    on_audio = command("run", "-u", upstream, "-d", task, "--data", corpus, "-p", "audio", *options)
    on_features = command("run", "-u", "features", "-d", task, "--data", folder, "-p", "features_run", *options)
    assert (on_audio.code, on_features.code) == (0, 0), on_audio.err + on_features.err
    assert scores(tmp_path / "features_run") == scores(tmp_path / "audio")
    banks = [json.loads(file.read_text()) for file in (tmp_path / "store").glob("*/bank.json")]
    assert [bank["upstream"] for bank in banks] == [upstream], "features that lie in files are not kept a second time"


def test_a_run_on_features_predicts_and_evaluates_without_its_data(command: Run, tmp_path: Path) -> None:
    folder = dump(make_corpus(tmp_path / "corpus"), tmp_path / "features", "fbank_no_cmvn")
    assert command("run", "-u", "features", "-d", "speaker", "--data", folder, "-p", "run", *QUICK).code == 0
    moved = shutil.move(folder, tmp_path / "moved")
    file = next(Path(moved, "test").iterdir())
    said = command("run", "-m", "predict", "-e", "run", file)
    assert said.code == 0 and json.loads(said.out)["id"] == str(file), said.err
    assert command("run", "-m", "evaluate", "-e", "run", "--data", moved).code == 0

    Path(moved, "features.json").write_text(about(dim=240, stride=200).model_dump_json())
    other = command("run", "-m", "predict", "-e", "run", file)
    assert other.code == 3 and '"stride":200' in other.err and '"stride":160' in other.err
    wav = command("run", "-m", "predict", "-e", "run", next(tmp_path.glob("corpus/**/*.wav")))
    assert wav.code == 2 and "upstream 'features' has no front-end" in wav.err


def test_an_upstream_on_waveforms_refuses_features_by_name(command: Run, tmp_path: Path) -> None:
    folder = dump(make_corpus(tmp_path / "corpus"), tmp_path / "features", "fbank")
    said = command("run", "-u", "fbank", "-d", "speaker", "--data", folder)
    assert said.code == 2 and "upstream 'fbank' begins with waveforms" in said.err and "-u features" in said.err
    assert not (tmp_path / "result").exists()


def test_an_upstream_on_features_refuses_audio_by_name(command: Run, tmp_path: Path) -> None:
    said = command("run", "-u", "features", "-d", "speaker", "--data", make_corpus(tmp_path / "corpus"))
    assert said.code == 2 and "upstream 'features' has no front-end" in said.err


@pytest.mark.parametrize(
    ("upstream", "file", "dim", "step"), [("tera_local", "tera_v01", 40, 1), ("audio_albert_local", "audio_albert_v01_dr3", 160, 3)]
)  # fmt: skip
def test_models_of_s3prls_first_releases_run_on_their_features(
    upstream: str, file: str, dim: int, step: int, command: Run, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    for width, name in ((dim, "fits"), (dim + 1, "wide")):
        files = {
            f"{split}/{speaker}-1-{n:04d}.npy": generator.standard_normal((20 + n, width), dtype=np.float32)
            for split in ("train", "dev", "test")
            for n, speaker in enumerate((11, 22), start={"train": 1, "dev": 3, "test": 5}[split])
        }
        toy(tmp_path / name, files, kind="fmllr", dim=width, stride=200, offset=0.0)
    run = ("run", "-u", upstream, "-k", ROOT / "tests" / "data" / "s3prl" / f"{file}.ckpt", "-d", "speaker", *QUICK)
    said = command(*run, "--data", tmp_path / "fits")
    assert said.code == 0 and f"every {12.5 * step:g} ms" in said.out, said.err
    wide = command(*run, "--data", tmp_path / "wide")
    assert wide.code == 2 and f"takes features of {dim} dims" in wide.err and f"(fmllr) has {dim + 1}" in wide.err


def test_another_size_is_refused_with_both_numbers() -> None:
    model = Upstream(NoFrontend("fmllr_model", 40), (40,), ("input",))
    model.name = "fmllr_model"
    with pytest.raises(UsageError, match=r"fmllr_model.* 40 dims.*\(toy\) has 4"):
        model.take_features(about())


def test_the_time_of_the_features_is_the_time_of_the_upstream_on_them() -> None:
    model = Upstream(NoFrontend("every_second", 4), (4,), ("input",), stride=320, offset=280.0)
    model.take_features(about(sample_rate=8000, stride=100, offset=50.0))
    assert (model.sample_rate, model.stride, model.offset) == (8000, 200, 100.0)


@given(st.integers(1, 5000), st.integers(1, 400), st.integers(0, 1000))
def test_samples_and_frames_are_each_others_inverse(frames: int, stride: int, halves: int) -> None:
    features = about(stride=stride, offset=halves / 2)
    samples = num_samples(frames, features)
    model = NoFrontend("toy", 4, stride=stride, offset=halves / 2)
    assert (model.frames(samples), model.frames(samples + stride - 1)) == (frames, frames)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_floats_of_any_size_are_read_as_float32(dtype: str, tmp_path: Path) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    found = read_features(tmp_path / "a.npy")
    assert found.dtype == torch.float32 and found.tolist() == array.tolist()


class Hostile:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was opened",))


def archive(file: Path) -> None:
    with open(file, "wb") as stream:
        np.savez(stream, a=np.ones((3, 4)))


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pickle": (lambda file: file.write_bytes(pickle.dumps(Hostile())), "cannot be read"),
    "objects": (lambda file: np.save(file, np.array([[Hostile()]]), allow_pickle=True), "cannot be read"),
    "archive": (archive, "several arrays"),
    "empty": (lambda file: file.write_bytes(b""), "cannot be read"),
    "an open bracket": (lambda file: file.write_bytes(b"\x93NUMPY\x01\x00\x02\x00{\n"), "cannot be read"),
    "cut": (lambda file: (np.save(file, np.ones((30, 4))), file.write_bytes(file.read_bytes()[:-8])), "cannot be read"),
    "vector": (lambda file: np.save(file, np.ones(4)), "matrix"),
    "no frames": (lambda file: np.save(file, np.ones((0, 4))), "matrix"),
    "integers": (lambda file: np.save(file, np.ones((3, 4), dtype=int)), "int64"),
    "complex": (lambda file: np.save(file, np.ones((3, 4), dtype=complex)), "complex128"),
    "NaN": (lambda file: np.save(file, np.full((3, 4), np.nan)), "NaN"),
    "huge": (
        lambda file: (np.save(file, np.ones((3, 4))), file.write_bytes(file.read_bytes().replace(b"(3,", b"(3" + b"0" * 12 + b",", 1))),
        "cannot be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_matrix_of_floats_is_refused_by_name(case: str, tmp_path: Path) -> None:
    make, words = BROKEN[case]
    make(tmp_path / "broken.npy")
    with pytest.raises(DataError, match=words) as raised:
        read_features(tmp_path / "broken.npy")
    assert "broken.npy" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"kind": "toy", "dim": 4, "sample_rate": 16000, "stride": 160}', "'offset' is missing"),
        ('{"kind": "toy", "dim": 0, "sample_rate": 16000, "stride": 160, "offset": 0}', "'dim'"),
        ('{"kind": "toy", "dim": 4, "sample_rate": 16000, "stride": 160, "ofset": 0}', "Did you mean 'offset'"),
    ],
)
def test_a_description_that_says_too_little_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "features.json").write_text(text)
    with pytest.raises(DataError, match=words) as raised:
        open_features(tmp_path)
    assert "features.json" in str(raised.value)


def test_features_without_a_description_are_refused_with_its_form(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 4)))
    with pytest.raises(DataError, match=r'write one such as \{"kind"'):
        common_features([tmp_path / "a.npy"])
    with pytest.raises(DataError, match=r"1 x \.npy; .* where a features\.json beside them says"):
        read_corpus(tmp_path)


def test_s3prls_own_folders_are_read_with_splits_and_speakers(tmp_path: Path) -> None:
    names = ("train-clean-100/19-198-0001", "dev-clean/84-121-0001", "test-clean/61-70-0000")
    corpus = read_corpus(toy(tmp_path, {f"{name}.npy": np.ones((3, 4)) for name in names}))
    found = {(one.id, one.split, one.speaker) for one in corpus.utterances}
    assert corpus.reader == "features"
    assert found == {("19-198-0001", "train", "19"), ("84-121-0001", "dev", "84"), ("61-70-0000", "test", "61")}


def test_two_kinds_in_one_corpus_are_refused(tmp_path: Path) -> None:
    one = toy(tmp_path / "one", {"a.npy": np.ones((3, 4))}) / "a.npy"
    two = toy(tmp_path / "two", {"b.npy": np.ones((3, 4))}, stride=200) / "b.npy"
    assert common_features([one, one]) == about()
    for other in (two, tmp_path / "c.wav"):
        with pytest.raises(DataError, match="a corpus is of one kind"):
            common_features([one, other])


def test_lengths_come_from_the_headers_and_wrong_files_are_named(tmp_path: Path) -> None:
    folder = toy(tmp_path, {"a.npy": np.ones((7, 4)), "wide.npy": np.ones((7, 5))})
    good = Utterance("a", folder / "a.npy")
    _, samples, _ = measure([good])
    assert samples.tolist() == [6 * 160 + 400]
    for bad, words in (
        (Utterance("w", folder / "wide.npy"), "has 5 dims, and features.json says 4"),
        (Utterance("a2", folder / "a.npy", start=0.0, end=0.05), "read as a whole"),
        (Utterance("m", folder / "missing.npy"), "missing"),
    ):
        with pytest.raises(DataError, match=words):
            measure([good, bad])
        assert [utterance.id for utterance in measure([good, bad], skip_bad=True)[0]] == ["a"]


def test_features_at_another_rate_keep_their_time(tmp_path: Path) -> None:
    folder = toy(tmp_path, {"a.npy": np.ones((7, 4))}, sample_rate=8000, stride=80, offset=100.0)
    assert measure([Utterance("a", folder / "a.npy")])[1].tolist() == [6 * 160 + 400]


def test_one_thread_at_a_time_parses_a_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, load = toy(tmp_path, {"a.npy": np.ones((7, 4), dtype=np.float32)}), np.load

    def watched(*arguments: Any, **settings: Any) -> Any:
        assert features._PARSER.locked()
        return load(*arguments, **settings)

    monkeypatch.setattr(np, "load", watched)
    assert torch.equal(read_features(folder / "a.npy"), torch.ones(7, 4))
