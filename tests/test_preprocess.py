"""What the scripts in `preprocess/` write: librosa's features, Kaldi's archives, S3PRL's lists, labels; whole, resumable, and never outside their folder."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kaldiio
import librosa
import numpy as np
import pytest
import scipy.signal
import soundfile
from conftest import ROOT, Answer
from corpora import make_corpus

from headwater.audio import read
from headwater.cli.shell import guarded
from headwater.data.features import open_features
from headwater.data.labels import read_frame_labels
from headwater.data.readers import read_corpus
from headwater.errors import UsageError
from headwater.preprocess import commands
from headwater.preprocess.acoustic import FEATURE_TYPES, Acoustic

Script = Callable[..., Answer]
SCRIPTS = sorted(file.stem for file in (ROOT / "preprocess").glob("*.py"))
PLAIN = ("--feature_type", "fbank", "--delta", "False", "--n_jobs", "1")


@pytest.fixture()
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    """Run a script in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: object) -> Answer:
        capsys.readouterr()
        try:
            code = guarded(getattr(commands, name), [str(argument) for argument in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return run


def by_librosa(wav: np.ndarray, kind: str, *, delta: bool, delta_delta: bool, cmvn: bool) -> np.ndarray:
    """S3PRL's recipe, straight from librosa: (T, D)."""
    short, long = {"n_fft": 400, "hop_length": 160}, {"n_fft": 2048, "hop_length": 200, "win_length": 800}
    if kind == "linear":
        spectrum = np.abs(librosa.stft(scipy.signal.lfilter([1, -0.97], [1], wav), **long, pad_mode="reflect"))
        static = np.clip((librosa.amplitude_to_db(spectrum, ref=1.0, amin=1e-5, top_db=None) - 20 + 100) / 100, 0, 1)
    elif kind == "mfcc":
        mel = librosa.feature.melspectrogram(y=wav, sr=16000, **short, pad_mode="reflect")
        static = librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=13)
        static[0] = librosa.feature.rms(y=wav, frame_length=400, hop_length=160, pad_mode="reflect")[0]
    else:
        framing = short if kind == "fbank" else long
        mel = librosa.feature.melspectrogram(y=wav, sr=16000, n_mels=80, **framing, pad_mode="reflect")
        static = np.log(mel + 1e-6)
    parts = [static]
    parts += [librosa.feature.delta(static)] if delta else []
    parts += [librosa.feature.delta(static, order=2)] if delta_delta else []
    rows = np.concatenate(parts)
    if cmvn:
        rows = (rows - rows.mean(1, keepdims=True)) / (rows.std(1, keepdims=True) + 1e-16)
    return np.asarray(rows.T, dtype=np.float32)


def arrays(folder: Path) -> dict[str, np.ndarray]:
    return {file.relative_to(folder).as_posix(): np.load(file) for file in sorted(folder.rglob("*.npy"))}


def table(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.filterwarnings("ignore:Empty filters")
@pytest.mark.parametrize("cmvn", [False, True])
@pytest.mark.parametrize("delta_delta", [False, True])
@pytest.mark.parametrize("kind", FEATURE_TYPES)
def test_features_are_librosas(kind: Any, delta_delta: bool, cmvn: bool, tmp_path: Path) -> None:
    wav = read(next(make_corpus(tmp_path, speakers=1, utterances=1).parent.rglob("*.wav"))).numpy()
    deltas = {"delta": kind != "linear", "delta_delta": delta_delta and kind != "linear"}
    found = Acoustic(kind, cmvn=cmvn, **deltas)(wav)
    expected = by_librosa(wav, kind, cmvn=cmvn, **deltas)
    assert found.dtype == np.float32 and found.shape == (len(expected), Acoustic(kind, **deltas).about.dim)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Empty filters")
@pytest.mark.parametrize("kind", FEATURE_TYPES)
def test_features_of_real_speech_are_librosas(kind: str, script: Script, shared: Path, tmp_path: Path) -> None:
    source = sorted((shared / "data" / "LibriSpeech" / "test-clean").iterdir())[0]
    corpus = tmp_path / "LibriSpeech" / "test-clean" / source.name
    corpus.parent.mkdir(parents=True)
    corpus.symlink_to(source)
    said = script("preprocess_libri", "--data_path", "LibriSpeech", "--feature_type", kind, "--n_jobs", 1)
    assert said.code == 0, said.err
    made = arrays(next((tmp_path / "data").iterdir()))
    assert len(made) >= 10
    for name, found in made.items():
        file = next(source.rglob(f"{Path(name).stem}.flac"))
        wav, rate = soundfile.read(file, dtype="float32")
        assert rate == 16000
        expected = by_librosa(wav, kind, delta=kind != "linear", delta_delta=False, cmvn=True)
        np.testing.assert_allclose(found, expected, atol=2e-3, rtol=1e-3)


def test_digital_silence_stays_finite() -> None:
    assert not Acoustic("fbank")(np.zeros(16000, dtype=np.float32)).any()


@pytest.mark.parametrize("samples", [1, 100, 1024, 1025, 2000])
def test_short_utterances_have_features(samples: int) -> None:
    wav = np.linspace(-0.5, 0.5, samples, dtype=np.float32)
    for kind in FEATURE_TYPES:
        found = Acoustic(kind)(wav)
        assert found.shape == (1 + samples // Acoustic(kind).about.stride, Acoustic(kind).about.dim)
        assert np.isfinite(found).all()


def test_deltas_of_linear_features_are_refused() -> None:
    with pytest.raises(UsageError, match="no deltas"):
        Acoustic("linear", delta=True)


def test_librispeech_becomes_s3prls_folder_and_headwaters_list(script: Script, tmp_path: Path) -> None:
    make_corpus(tmp_path, "librispeech")
    said = script("preprocess_libri", "--data_path", "LibriSpeech", "--n_jobs", 1)
    assert said.code == 0 and "libri_mel160" in said.out, said.err
    folder = tmp_path / "data" / "libri_mel160"
    made = arrays(folder)
    assert len(made) == 15 and all(array.shape[1] == 160 for array in made.values())
    rows = table(folder / "train-clean-100.csv")
    assert list(rows[0]) == ["", "file_path", "length", "label"]
    assert [row[""] for row in rows] == [str(number) for number in range(15)]
    assert {row["file_path"]: int(row["length"]) for row in rows} == {name: len(array) for name, array in made.items()}
    lengths = [int(row["length"]) for row in rows]
    assert lengths == sorted(lengths, reverse=True)
    described = json.loads((folder / "features.json").read_text())
    assert described["settings"]["delta"] is True and described["settings"]["cmvn"] is True
    assert (open_features(folder).kind, open_features(folder).stride) == ("mel160", 200)
    corpus = read_corpus(folder)
    assert corpus.speakers() == ("100", "101", "102") and corpus.utterances[0].labels["chapter"]


def test_a_second_run_makes_only_what_is_not_there(script: Script, tmp_path: Path) -> None:
    make_corpus(tmp_path, "librispeech")
    run = ("preprocess_libri", "--data_path", "LibriSpeech", *PLAIN)
    assert "15 utterances made, 0 were there" in script(*run).out
    folder = tmp_path / "data" / "libri_fbank80"
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert "0 utterances made, 15 were there" in script(*run).out

    gone, torn, old = sorted(folder.rglob("*.npy"))[:3]
    gone.unlink()
    torn.write_bytes(torn.read_bytes()[:-4])
    os.utime(old, ns=(0, 0))
    (folder / "features.json").rename(folder / ".features.json")  # as a run that was stopped leaves it
    assert "3 utterances made, 12 were there" in script(*run).out
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before

    other = script(*run, "--apply_cmvn", "False")
    assert other.code == 2 and "'cmvn': True" in other.err and "'cmvn': False" in other.err


def test_subsets_can_be_made_one_after_the_other(script: Script, tmp_path: Path) -> None:
    make_corpus(tmp_path, "split_folder")
    for split in ("train", "dev", "test"):
        assert script("preprocess_any", "--data_path", "splits", "--splits", split, *PLAIN).code == 0
    corpus = read_corpus(tmp_path / "data" / "NewData_fbank80")
    assert {split: len(corpus.split(split)) for split in corpus.splits()} == {"train": 9, "dev": 3, "test": 3}


def test_processes_write_the_same_files(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.preprocess.features._WORTH", 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    make_corpus(tmp_path, "librispeech", speakers=2)
    for name, jobs in (("one", 1), ("two", 2)):
        said = script("preprocess_libri", "--data_path", "LibriSpeech", "--name", name, *PLAIN[:-1], jobs)
        assert said.code == 0, said.err
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / "data" / name).rglob("*") if file.is_file()} for name in ("one", "two"))  # fmt: skip
    assert one == two and len(one) == 13


def test_timit_is_known_by_its_tree(script: Script, tmp_path: Path) -> None:
    wav = 0.1 * np.random.default_rng(0).standard_normal(8000)
    for name in ("TRAIN/DR1/FCJF0/SA1", "TRAIN/DR2/MDPB0/SA1", "TEST/DR1/FAKS0/SX3"):
        file = tmp_path / "timit" / f"{name}.WAV"
        file.parent.mkdir(parents=True)
        soundfile.write(file, wav, 16000, format="NIST", subtype="PCM_16")
    said = script("preprocess_timit", "--data_path", "timit", "--feature_type", "mfcc", "--delta_delta", "True", "--n_jobs", 1)  # fmt: skip
    assert said.code == 0, said.err
    corpus = read_corpus(tmp_path / "data" / "timit_mfcc39")
    found = {(one.id, one.split, one.speaker) for one in corpus.utterances}
    assert found == {("FCJF0_SA1", "train", "FCJF0"), ("MDPB0_SA1", "train", "MDPB0"), ("FAKS0_SX3", "test", "FAKS0")}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--data_path", "nowhere"), 2, "no data at nowhere"),
        (("--data_path", "LibriSpeech", "--splits", "train-clean-1000"), 2, "Did you mean 'train-clean-100'"),
        (("--data_path", "LibriSpeech", "--name", "../out"), 2, "cannot be the name of a folder"),
        (("--data_path", "LibriSpeech", "--name", "LibriSpeech", "--output_path", "."), 2, "holds other things"),
        (("--data_path", "LibriSpeech", "--feature_type", "linear", "--delta", "True"), 2, "no deltas"),
        (("--data_path", "LibriSpeech", "--delta", "yes"), 2, "neither True nor False"),
        (("--data_path", "LibriSpeech", "--n_jobs", "0"), 2, "--n_jobs 0"),
        (("--data_path", "LibriSpeech", "--n_jobs", "1"), 3, "a delta needs 9"),
    ],
)
def test_wrong_use_is_explained(arguments: tuple[str, ...], code: int, words: str, script: Script, tmp_path: Path) -> None:  # fmt: skip
    make_corpus(tmp_path, "librispeech", speakers=1, utterances=3)
    speech = next(tmp_path.rglob("*.flac"))
    soundfile.write(speech.with_name(f"{speech.stem[:-4]}0099.flac"), np.zeros(400), 16000)
    said = script("preprocess_libri", *arguments)
    assert said.code == code and words in said.err, said.err


def test_what_cannot_be_used_is_left_out_on_demand(script: Script, tmp_path: Path) -> None:
    make_corpus(tmp_path, "librispeech", speakers=1, utterances=3)
    speech = next(tmp_path.rglob("*.flac"))
    soundfile.write(speech.with_name(f"{speech.stem[:-4]}0098.flac"), np.zeros(24000), 48000)
    speech.with_name(f"{speech.stem[:-4]}0099.flac").write_bytes(b"fLaC")
    run = ("preprocess_libri", "--data_path", "LibriSpeech", *PLAIN)
    said = script(*run)
    assert said.code == 3 and "2 of 5 utterances cannot be used" in said.err and "48000 Hz" in said.err
    assert not (tmp_path / "data" / "libri_fbank80" / "features.json").exists()
    said = script(*run, "--skip_bad_audio", "--resample")
    assert said.code == 0 and said.out.count("left out: ") == 1 and "0099.flac" in said.out
    assert len(read_corpus(tmp_path / "data" / "libri_fbank80").utterances) == 4


def test_an_id_never_leads_out_of_the_folder(script: Script, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", speakers=1, utterances=1)
    corpus.write_text(corpus.read_text().replace("path,", "path,id,").replace(".wav,", ".wav,../../escaped,"))
    said = script("preprocess_any", "--data_path", corpus, *PLAIN)
    assert said.code == 3 and "cannot be the name of a file" in said.err
    assert not list(tmp_path.rglob("escaped*"))


def archives(folder: Path, *, splits: tuple[str, ...] = ("train_clean_100", "test_clean")) -> dict[str, np.ndarray]:
    """Kaldi archives of two utterances a split, as Kaldi sorts them."""
    matrices = {}
    for split in splits:
        generator = np.random.default_rng(len(split))
        part = {f"{len(split)}-7-{number:04d}": generator.standard_normal((5 + number, 40), dtype=np.float32) for number in (1, 2)}  # fmt: skip
        (folder / split).mkdir(parents=True)
        kaldiio.save_ark(str(folder / split / "fmllr_cmvn.ark"), part, scp=str(folder / split / "feats.scp"))
        matrices |= part
    return matrices


@pytest.mark.parametrize("listed", [True, False])
def test_archives_go_into_a_folder_and_back_bit_for_bit(listed: bool, script: Script, tmp_path: Path) -> None:
    matrices = archives(tmp_path / "kaldi")
    if not listed:
        for file in tmp_path.rglob("feats.scp"):
            file.unlink()
    said = script("ark2libri", "--data_path", "kaldi")
    assert said.code == 0, said.err
    folder = tmp_path / "data" / "libri_fmllr_cmvn"
    made = arrays(folder)
    assert sorted(made) == [f"test-clean/10-7-000{n}.npy" for n in (1, 2)] + [f"train-clean-100/15-7-000{n}.npy" for n in (1, 2)]  # fmt: skip
    assert all(made[name].tobytes() == matrices[Path(name).stem].tobytes() for name in made)
    assert (open_features(folder).kind, open_features(folder).offset) == ("fmllr", 200.0)
    assert {one.id: (one.split, one.speaker) for one in read_corpus(folder).utterances}["15-7-0001"] == ("train", "15")

    assert script("timit2ark", "--data_path", folder, "--output_path", "again").code == 0
    for split in ("train_clean_100", "test_clean"):
        group = tmp_path / "again" / split.replace("_", "-")
        assert (group / "feats.ark").read_bytes() == (tmp_path / "kaldi" / split / "fmllr_cmvn.ark").read_bytes()
        for key, matrix in kaldiio.load_scp(str(group / "feats.scp")).items():
            assert np.array_equal(matrix, matrices[key])
        assert (group / "utt2spk").read_text().split()[1] == str(len(split))


def test_speakers_of_archives_come_from_utt2spk_where_it_lies_beside_them(script: Script, tmp_path: Path) -> None:
    archives(tmp_path / "kaldi", splits=("dev",))
    (tmp_path / "kaldi" / "dev" / "utt2spk").write_text("3-7-0001 anna\n3-7-0002 ben\n")
    assert script("ark2libri", "--data_path", "kaldi").code == 0
    assert read_corpus(tmp_path / "data" / "libri_fmllr_cmvn").speakers() == ("anna", "ben")


def test_compressed_archives_are_read_as_kaldi_does(script: Script, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).standard_normal((9, 40), dtype=np.float32)
    for method in (1, 3, 5):
        (tmp_path / f"kaldi{method}" / "test").mkdir(parents=True)
        file = tmp_path / f"kaldi{method}" / "test" / "a.ark"
        kaldiio.save_ark(str(file), {"FAKS0_SX3": matrix}, compression_method=method)
        said = script("ark2timit", "--data_path", file.parent.parent, "--name", f"m{method}")
        assert said.code == 0, said.err
        (found,) = arrays(tmp_path / "data" / f"m{method}").values()
        assert np.array_equal(found, dict(kaldiio.load_ark(str(file)))["FAKS0_SX3"])


class Hostile:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"key PKL" + pickle.dumps(Hostile()), "no binary Kaldi matrix"),
        (b"key [ 1 2\n 3 4 ]\n", "copy-feats"),
        (b"key \0BFM \4\x05\0\0\0\4\x05\0\0\0abc", "damaged or cut off"),
        (b"key \0BFM \4\xff\xff\xff\x7f\4\xff\xff\xff\x7fabc", "damaged or cut off"),
        (b"../../escaped \0BFM \4\1\0\0\0\4\1\0\0\0abcd", "cannot be the name of a file"),
        (b"\xff\xfe" * 40, "no key stands at byte 0"),
        (b"key", "no key stands"),
    ],
)
def test_a_hostile_archive_is_refused_and_nothing_of_it_runs(
    content: bytes, words: str, script: Script, tmp_path: Path
) -> None:
    (tmp_path / "kaldi" / "dev").mkdir(parents=True)
    (tmp_path / "kaldi" / "dev" / "a.ark").write_bytes(content)
    said = script("ark2voxceleb", "--data_path", "kaldi")
    assert said.code == 3 and words in said.err
    assert not (tmp_path / "executed").exists() and not list(tmp_path.rglob("escaped*"))


def test_a_place_that_no_file_has_is_refused(script: Script, tmp_path: Path) -> None:
    archives(tmp_path / "kaldi", splits=("dev",))
    (tmp_path / "kaldi" / "dev" / "feats.scp").write_text(f"3-7-0001 fmllr_cmvn.ark:{10**30}\n")
    said = script("ark2timit", "--data_path", "kaldi")
    assert said.code == 3 and f"begins at byte {10**30}" in said.err and "Traceback" not in said.err


@pytest.mark.parametrize("line", ["key touch executed |", "key | touch executed:3", "key a.ark", "key"])
def test_a_list_of_archives_runs_no_command(line: str, script: Script, tmp_path: Path) -> None:
    (tmp_path / "kaldi" / "dev").mkdir(parents=True)
    (tmp_path / "kaldi" / "dev" / "feats.scp").write_text(f"{line}\n")
    said = script("ark2timit", "--data_path", "kaldi")
    assert said.code == 3 and "feats.scp:1" in said.err and not (tmp_path / "executed").exists()


def test_archives_of_two_widths_are_refused(script: Script, tmp_path: Path) -> None:
    (tmp_path / "kaldi" / "dev").mkdir(parents=True)
    both = {"a_1": np.ones((3, 4), dtype=np.float32), "a_2": np.ones((3, 5), dtype=np.float32)}
    kaldiio.save_ark(str(tmp_path / "kaldi" / "dev" / "a.ark"), both)
    said = script("ark2timit", "--data_path", "kaldi")
    assert said.code == 3 and "'a_2' has 5 dims, those before it 4" in said.err


def test_lists_of_lengths_count_samples_at_16_khz(script: Script, tmp_path: Path) -> None:
    make_corpus(tmp_path, "librispeech", speakers=2, utterances=2)
    fast = next(tmp_path.rglob("*.flac"))
    fast = fast.with_name(f"{fast.stem[:-4]}0009.flac")
    soundfile.write(fast, np.zeros(48000), 48000)
    said = script("generate_len_for_bucket", "-i", "LibriSpeech", "-o", "lists", "--n_jobs", 12)
    assert said.code == 0, said.err
    rows = table(tmp_path / "lists" / "len_for_bucket" / "train-clean-100.csv")
    assert list(rows[0]) == ["", "file_path", "length", "label"] and len(rows) == 5
    assert (
        rows[0]["length"] == "16000" and rows[0]["file_path"] == fast.relative_to(tmp_path / "LibriSpeech").as_posix()
    )
    for row in rows[1:]:
        assert int(row["length"]) == soundfile.info(tmp_path / "LibriSpeech" / row["file_path"]).frames


@pytest.mark.parametrize("subset", ["../../outside", "a/b"])
def test_a_subset_never_leads_out_of_the_folder_of_lists(subset: str, script: Script, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 16000)
    (tmp_path / "list.csv").write_text(f"path,subset\na.wav,{subset}\n")
    said = script("generate_len_for_bucket", "-i", "list.csv", "-a", ".wav", "-o", "deep/lists")
    assert said.code == 3 and repr(subset) in said.err
    assert [file.name for file in tmp_path.rglob("*.csv")] == ["list.csv"]


def test_montreal_alignments_become_labels_that_the_phone_task_reads(script: Script, tmp_path: Path) -> None:
    folder = tmp_path / "alignment" / "train-clean-100" / "19"
    folder.mkdir(parents=True)
    (folder / "19-198-0001.txt").write_text("0.0 0.25 SIL\n0.25 0.42 AH0\n0.42 0.6 S\n")
    (folder / "19-198-0002.txt").write_text("0.0 0.5 sp\n0.5 0.9 AH1\n")
    (folder / "19-198-0003.txt").write_text("nothing of use\n")
    (folder.parent / "unaligned.txt").write_text("19-198-0003\tno alignment\n")
    said = script("preprocess_alignment", "--data_path", "alignment", "--output_path", "phones")
    assert said.code == 0 and "1 utterances are listed as unaligned" in said.out, said.err
    found = read_frame_labels(tmp_path / "phones" / "phones.txt")
    assert found.classes == ("SIL", "AH", "S")
    # Label k lies at 12.5 ms + 10 ms k: 24 of them before 0.25 s, and so on.
    assert found.labels["19-198-0001"].tolist() == [0] * 24 + [1] * 17 + [2] * 17
    assert set(found.labels) == {"19-198-0001", "19-198-0002"}


def test_labels_fill_the_audio_that_is_named(script: Script, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", speakers=1, utterances=2)
    for number in range(2):
        (tmp_path / "alignment").mkdir(exist_ok=True)
        (tmp_path / "alignment" / f"spk00-0{number}.lab").write_text("0.0 0.2 AH\n")
    said = script("preprocess_alignment", "--data_path", "alignment", "--output_path", "phones", "--audio_path", corpus)
    assert said.code == 0, said.err
    found = read_frame_labels(tmp_path / "phones" / "phones.txt")
    for name, labels in found.labels.items():
        samples = soundfile.info(next(tmp_path.rglob(f"{name}.wav"))).frames
        assert len(labels) == (samples - 400) // 160 + 1 and labels[:19].all() and not labels[19:].any()


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_explains_itself(name: str, script: Script) -> None:
    said = script(name, "--help")
    assert said.code == 0 and f"preprocess/{name}.py" in said.out and "--data_path" in said.out + "--data_path"
    assert f"import {name}\n" in (ROOT / "preprocess" / f"{name}.py").read_text()


def test_a_script_runs_from_any_folder(tmp_path: Path) -> None:
    make_corpus(tmp_path, "librispeech", speakers=1, utterances=1)
    file = ROOT / "preprocess" / "generate_len_for_bucket.py"
    done = subprocess.run(
        [sys.executable, file, "-i", "LibriSpeech"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "len_for_bucket" / "train-clean-100.csv").is_file()
    shutil.rmtree(tmp_path / "LibriSpeech")
    done = subprocess.run([sys.executable, file, "-i", "LibriSpeech"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
