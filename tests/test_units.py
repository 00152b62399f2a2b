"""Discrete units: clusters of frames, what is written of them, and what they know of phones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import make_corpus, make_labels
from faults import command

from headwater.errors import DataError, UsageError
from headwater.units.folder import read_centres, read_units, write_units
from headwater.units.kmeans import assign, kmeans
from headwater.units.measures import contingency, measure, phone_purity, pnmi, unit_purity

ABOUT = {"sample_rate": 16000, "stride": 160, "offset": 200.0, "source": {"upstream": "mel", "layer": 0}}


def blobs(clusters: int, each: int, shift: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(clusters, 5, generator=generator) + shift
    return centres, centres.repeat_interleave(each, 0) + 0.1 * torch.randn(clusters * each, 5, generator=generator)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_planted_clusters_are_found_wherever_they_lie(shift: float) -> None:
    centres, x = blobs(12, 50, shift)
    found = kmeans(x, 12, seed=3)
    codes, _ = assign(x, found.centres)
    assert len(set(codes.tolist())) == 12 and all(len(set(part.tolist())) == 1 for part in codes.split(50))
    nearest = torch.cdist(centres, found.centres, compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    assert nearest.max() < 0.2 and found.inertia == pytest.approx(0.05, rel=0.2) and found.steps >= 1


def test_the_same_seed_finds_the_same_clusters_and_each_step_is_no_worse() -> None:
    x = torch.randn(2000, 8, generator=torch.Generator().manual_seed(1))
    first, again = kmeans(x, 30, seed=5), kmeans(x, 30, seed=5)
    assert torch.equal(first.centres, again.centres)
    inertias = [kmeans(x, 30, seed=5, steps=steps).inertia for steps in (1, 2, 4, 8)]
    assert inertias == sorted(inertias, reverse=True) and first.inertia <= inertias[-1]
    assert not torch.equal(first.centres, kmeans(x, 30, seed=6).centres)


def test_a_cluster_that_loses_its_frames_gets_others() -> None:
    # Three points by thousands and one far away: whatever is drawn first, four clusters hold all of them.
    x = torch.cat([torch.eye(3).repeat(1000, 1), torch.tensor([[50.0, 0, 0]])])
    found = kmeans(x, 4, seed=0)
    assert found.inertia == pytest.approx(0.0, abs=1e-6) and len(assign(x, found.centres)[0].unique()) == 4


def test_more_clusters_than_different_frames_are_refused() -> None:
    with pytest.raises(DataError, match="4 clusters of 3 frames"):
        kmeans(torch.randn(3, 2), 4, seed=0)
    with pytest.raises(DataError, match="only 2 different frames"):
        kmeans(torch.eye(2).repeat(10, 1), 4, seed=0)


def test_measures_are_what_they_are_by_hand() -> None:
    # Units 0 and 1 are phone 0, unit 2 is half phone 1 and half phone 2.
    counts = np.array([[2.0, 0, 0], [2, 0, 0], [0, 2, 2]])
    assert phone_purity(counts) == pytest.approx(6 / 8) and unit_purity(counts) == pytest.approx(6 / 8)
    entropy = 0.5 * np.log(2) + 2 * 0.25 * np.log(4)
    assert pnmi(counts) == pytest.approx((entropy - 0.5 * np.log(2)) / entropy)
    assert pnmi(np.eye(4)) == pytest.approx(1.0) and pnmi(np.ones((3, 5))) == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(pnmi(np.ones((3, 1)))), "one phone: there is nothing to know"
    many = np.stack([counts, np.eye(3)])
    np.testing.assert_allclose(pnmi(many), [pnmi(counts), 1.0])
    np.testing.assert_array_equal(
        contingency(np.array([0, 2, 2]), np.array([1, 0, 0]), (3, 2)), [[0, 1], [0, 0], [2, 0]]
    )


def test_the_baseline_of_random_units_is_above_zero_and_random_units_are_at_it() -> None:
    generator = np.random.default_rng(0)
    names = [f"u{number}" for number in range(30)]
    phones = {name: generator.integers(10, size=300) for name in names}
    units = {name: generator.integers(20, size=300) for name in names}
    found = measure(units, phones, {name: name[:2] for name in names}, (20, 10), seed=0)
    # (K - 1)(P - 1) / 2N nats of log(10) are there by chance alone.
    assert found["pnmi"].chance == pytest.approx(19 * 9 / (2 * 9000 * np.log(10)), rel=0.1)
    assert found["pnmi"].value == pytest.approx(found["pnmi"].chance, abs=0.002)
    assert found["pnmi"].clusters == 10 and found["pnmi"].n == 30 and found["pnmi"].ci95 is not None
    known = measure(phones, phones, dict.fromkeys(names), (10, 10), seed=0)
    assert known["pnmi"].value == pytest.approx(1.0) and known["pnmi"].chance is not None and known["pnmi"].chance < 0.1


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make_labels(folder)
    return make_corpus(folder)


@pytest.fixture(scope="module")
def units(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("units") / "mfcc"
    said = command("units", *words(corpus, folder, "-c", "8", "-o", f"data.labels={corpus.parent / 'phones.txt'}"))
    assert said.code == 0, said.err
    assert "pnmi" in said.out and "with the units permuted" in said.out
    return folder


def words(corpus: Path, folder: Path, *more: str, name: str = "mfcc") -> list[str]:
    return ["-u", name, "--data", str(corpus), "-p", str(folder), "--device", "cpu", *more]


def test_units_are_written_for_all_utterances_and_read_again(corpus: Path, units: Path) -> None:
    held, about = read_units(units), json.loads((units / "units.json").read_text())
    assert len(held.of) == 15 and held.clusters == 8 == len(read_centres(units))
    assert (held.sample_rate, held.stride, held.offset) == (16000, 160, 200.0)
    assert (
        about["source"]["upstream"] == "mfcc"
        and about["fit"]["split"] == "train"
        and about["phones"]["split"] == "test"
    )
    metrics = about["phones"]["metrics"]
    assert metrics["pnmi"]["value"] > 2 * metrics["pnmi"]["chance"] > 0, "vowels of tones are easily told apart"
    model = __import__("headwater").load("mfcc")
    import soundfile

    wav = torch.from_numpy(soundfile.read(corpus.parent / "wav/spk00/spk00-00.wav", dtype="float32")[0])
    state = model.extract([wav]).hidden_states[0][0]
    codes, _ = assign(state, read_centres(units))
    np.testing.assert_array_equal(codes.numpy(), held.of["spk00-00"])


def test_units_are_the_same_bits_again_and_with_little_memory(corpus: Path, units: Path, tmp_path: Path) -> None:
    assert command("units", *words(corpus, tmp_path / "again", "-c", "8", "--memory-gib", "0")).code == 0
    for name in ("units.txt", "centres.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (units / name).read_bytes()


def test_clusters_of_another_folder_are_taken_as_they_are(corpus: Path, units: Path, tmp_path: Path) -> None:
    said = command("units", *words(corpus, tmp_path / "more", "--centres", str(units)))
    assert said.code == 0, said.err
    assert (tmp_path / "more" / "units.txt").read_bytes() == (units / "units.txt").read_bytes()
    assert read_units(tmp_path / "more").sha256 == read_units(units).sha256
    said = command("units", *words(corpus, tmp_path / "other", "--centres", str(units), name="fbank"))
    assert said.code == 2 and "its clusters are of 'mfcc', layer 0; upstream" in said.err
    said = command("units", *words(corpus, tmp_path / "other", "--centres", str(units), "-c", "8"))
    assert said.code == 2 and "brings its own" in said.err


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["-l", "3"], 2, "has the layers 0 to 0"),
        (["-c", "1"], 2, "-c 1: at least 2"),
        (["--fit", "trian"], 2, "--fit trian: the corpus has train, dev, test. Did you mean"),
        (["--split", "nosplit"], 2, "--split nosplit: the corpus has train, dev, test"),
        (["--seed", "-1"], 2, "--seed -1: at least 0"),
        (["--memory-gib", "nan"], 2, "--memory-gib nan: at least 0"),
        (["-c", "100000"], 3, "give more speech, or fewer clusters"),
        (["-o", "data.trials=x"], 2, "data.trials"),
        (["--centres", "nowhere"], 2, "no folder of units"),
    ],
)
def test_wrong_wishes_are_refused_by_name(more: list[str], code: int, says: str, corpus: Path, tmp_path: Path) -> None:
    said = command("units", *words(corpus, tmp_path / "units", *more))
    assert said.code == code and says in said.err, said.err
    assert not (tmp_path / "units").exists()


def test_what_is_there_already_is_not_written_over_without_being_told(corpus: Path, units: Path) -> None:
    said = command("units", *words(corpus, units, "-c", "8"))
    assert said.code == 2 and "--force" in said.err
    said = command("units", *words(corpus, corpus.parent, "-c", "8"))
    assert said.code == 2 and "holds other things" in said.err


def test_broken_folders_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"units\.json is missing"):
        read_units(tmp_path)
    write_units(tmp_path, {"a": np.array([0, 1, 2])}, torch.zeros(3, 4), ABOUT)
    assert read_units(tmp_path).of["a"].tolist() == [0, 1, 2]
    lines, about = tmp_path / "units.txt", tmp_path / "units.json"
    for text, says in (
        ("a 0 1 3\n", "not 0 to 2"),
        ("a 0 x\n", r"units\.txt:1: the form is"),
        ("a 0 1 1\n", "not the units that"),
    ):
        lines.write_text(text)
        with pytest.raises(DataError, match=says):
            read_units(tmp_path)
    about.write_text(json.dumps({**json.loads(about.read_text()), "stride": 0}))
    with pytest.raises(DataError, match="broken"):
        read_units(tmp_path)
