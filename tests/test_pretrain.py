"""Pretraining from one command: what is trained on, what is learnt, what is written, and that the same run has the same bits."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT
from corpora import make_corpus
from faults import Said, command
from loops import same
from tensorboardX.proto.event_pb2 import Event
from test_docs import keys

import headwater
from headwater.audio.frontends import normalise_level
from headwater.cli.pretrain import parser, settings_of
from headwater.config import PretrainConfig
from headwater.data.corpus import Utterance
from headwater.errors import DataError
from headwater.settings import validate
from headwater.train.checkpoint import Checkpoint
from headwater.train.loop import Trainer
from headwater.train.pretrain import Prepared, prepare
from headwater.train.pretraining import Piece, Source, hold_out
from headwater.train.work import Portion
from headwater.weights import read_header, read_safetensors

SMALL = (
    "model.transformer.hidden_size=16,,model.transformer.num_attention_heads=2,,model.transformer.num_hidden_layers=1,,"
    "model.transformer.intermediate_size=32"
)
TINY = (
    f"{SMALL},,min_seconds=0,,crop_seconds=0.4,,batch.size=4,,dev_share=0.2,,"
    "runner.total_steps=8,,runner.eval_step=4,,runner.save_step=3,,runner.log_step=2"
)


def arguments(corpus: Path, folder: Path, *more: str, name: str = "tera", tiny: str = TINY) -> list[str]:
    return ["-u", name, "--data", str(corpus), "-p", str(folder), "--device", "cpu", "-o", tiny, *more]


def pretrain(corpus: Path, folder: Path, *more: str, **kinds: str) -> Said:
    """A run that must end well."""
    said = command("pretrain", *arguments(corpus, folder, *more, **kinds))
    assert said.code == 0, said.err
    return said


def prepared(corpus: Path, *overrides: str, name: str = "tera") -> Prepared:
    words = ["-u", name, "--data", str(corpus), "-o", TINY, *(word for one in overrides for word in ("-o", one))]
    config = validate(PretrainConfig, settings_of(parser().parse_args(words))[0])
    return prepare(config, device="cpu", say=lambda line: None)


def result_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return content


def last_module(folder: Path) -> dict[str, torch.Tensor]:
    state = Checkpoint(folder / "checkpoint").load()
    assert state is not None
    module: dict[str, torch.Tensor] = state["module"]
    return module


def names(pieces: Sequence[Piece]) -> set[str]:
    return {piece.utterance.id for piece in pieces}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV with splits: 12 train, 4 dev and 4 test utterances of 4 speakers."""
    return make_corpus(tmp_path_factory.mktemp("corpus"), speakers=4, utterances=5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of 6 speakers, without splits."""
    return make_corpus(tmp_path_factory.mktemp("folders"), "folder", speakers=6, utterances=3)


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "tera"
    pretrain(corpus, folder)
    return folder


def test_what_was_written_loads_as_the_upstream_that_was_trained(corpus: Path, run: Path) -> None:
    # The fourth step or the eighth, whichever was the better one on dev.
    chosen = read_safetensors(run / "checkpoint" / f"best-{result_of(run)['best_step']}.safetensors")
    header = read_header(run / "model.safetensors")
    assert header["upstream"] == "tera" and header["trained_on"]["splits"]["train"]["utterances"] == 12
    assert same(read_safetensors(run / "model.safetensors"), chosen)
    model = headwater.load(f"ckpt:{run}")
    wav = torch.from_numpy(soundfile.read(corpus.parent / "wav/spk00/spk00-00.wav", dtype="float32")[0])
    states = model.extract([wav]).hidden_states
    parts = prepared(corpus)
    parts.objective.load_state_dict(chosen)
    x, lengths = parts.objective.eval().input([normalise_level(wav, -25.0)])  # type: ignore[operator]
    with torch.no_grad():
        expected = parts.objective.transformer(x, lengths)  # type: ignore[operator]
    assert len(states) == len(expected) == 2
    for ours, theirs in zip(states, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_same_command_gives_the_same_bits_and_then_says_that_it_is_finished(
    corpus: Path, run: Path, tmp_path: Path
) -> None:
    pretrain(corpus, tmp_path / "again")
    assert same(last_module(run), last_module(tmp_path / "again"))
    assert (run / "model.safetensors").read_bytes() == (tmp_path / "again" / "model.safetensors").read_bytes()
    assert (run / "scores" / "dev.jsonl").read_bytes() == (tmp_path / "again" / "scores" / "dev.jsonl").read_bytes()
    once_more = pretrain(corpus, run)
    assert "finished" in once_more.out and "dev        loss" in once_more.out
    pretrain(corpus, tmp_path / "other", "--seed", "2")
    assert not same(last_module(run), last_module(tmp_path / "other"))


def test_a_run_goes_on_from_its_own_settings(corpus: Path, run: Path, tmp_path: Path) -> None:
    said = command("pretrain", "-e", str(run), "-p", str(tmp_path / "run"), "--device", "cpu")
    assert said.code == 0, said.err
    assert same(last_module(run), last_module(tmp_path / "run"))
    assert "finished" in command("pretrain", "-e", str(run / "checkpoint" / "last.pt"), "--device", "cpu").out


def test_its_loss_falls_where_there_is_something_to_learn(corpus: Path, tmp_path: Path) -> None:
    pretrain(
        corpus, tmp_path, "-o", "runner.total_steps=250,,runner.eval_step=50,,optimizer.lr=3e-3,,runner.log_step=25"
    )
    result = result_of(tmp_path)
    dev = [row["dev"]["loss"] for row in result["history"] if "dev" in row]
    train = [row["loss"] for row in result["history"] if "loss" in row]
    assert dev[-1] < 0.85 * train[0] and train[-1] < 0.85 * train[0]
    assert result["metrics"]["dev"]["loss"]["value"] == pytest.approx(min(dev), rel=1e-12)
    assert result["metrics"]["dev"]["loss"]["n"] == 4


def test_accumulated_batches_are_divided_once_by_what_was_masked_in_all_of_them(corpus: Path, tmp_path: Path) -> None:
    plain = "optimizer.name=SGD,,optimizer.lr=1,,optimizer.weight_decay=0,,runner.gradient_clipping=1e9"
    parts = prepared(corpus, plain, "scheduler.name=constant,,scheduler.warmup_ratio=0")
    portions = [Portion(0, 0, np.array([0, 1, 2]), 0, 1), Portion(0, 1, np.array([3]), 0, 1)]
    before = {name: value.clone() for name, value in parts.objective.state_dict().items()}
    sums, counts = zip(*(parts.objective(ready.wavs, ready.share) for ready in parts.work.ready(portions)))
    (torch.cat(sums).sum() / torch.cat(counts).sum()).backward()
    gradients = {name: value.grad for name, value in parts.objective.named_parameters()}
    parts.objective.zero_grad(set_to_none=True)
    trainer = Trainer(
        parts.work,
        parts.config,
        world=parts.world,
        device=parts.device,
        checkpoint=Checkpoint(tmp_path),
        events=None,
    )
    trainer._step([(ready, 1.0) for ready in parts.work.ready(portions)])
    for name, value in parts.objective.named_parameters():
        expected = before[name] if gradients[name] is None else before[name] - gradients[name]
        torch.testing.assert_close(value.detach(), expected, rtol=1e-5, atol=1e-6)


def test_crops_and_masks_are_drawn_anew_each_epoch_and_the_same_again_for_a_place(corpus: Path) -> None:
    parts = prepared(corpus)

    def drawn(epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        (ready,) = parts.work.ready([Portion(epoch, number, np.arange(4), 0, 1)])
        return torch.cat(ready.wavs), torch.rand(8, generator=ready.share.generator)

    wavs, numbers = drawn(0, 0)
    assert torch.equal(wavs, drawn(0, 0)[0]) and torch.equal(numbers, drawn(0, 0)[1])
    assert not torch.equal(wavs, drawn(1, 0)[0])
    assert torch.equal(wavs, drawn(0, 1)[0]), "a crop is of an epoch, in whichever batch"
    assert not torch.equal(numbers, drawn(0, 1)[1]) and not torch.equal(numbers, drawn(1, 0)[1])


def test_an_utterance_has_its_level_before_it_is_cut(corpus: Path) -> None:
    parts = prepared(corpus)
    piece = parts.speech.train[0]
    wav = torch.from_numpy(soundfile.read(piece.utterance.path, dtype="float32")[0])
    (ready,) = parts.work.ready([Portion(0, 0, np.array([0]), 0, 1)])
    crop = ready.wavs[0]
    assert len(crop) == 6400 < len(wav)
    pieces = normalise_level(wav, -25.0).unfold(0, 6400, 1)
    assert (pieces == crop).all(1).sum() == 1
    own = 20 * float(crop.square().mean().sqrt().log10())
    assert abs(own + 25) > 0.01, "a crop has another level than the whole"


def test_what_is_kept_in_memory_changes_nothing(corpus: Path, run: Path, tmp_path: Path) -> None:
    pretrain(corpus, tmp_path, "-o", "store.memory_gib=0")
    assert same(last_module(run), last_module(tmp_path))


def test_a_file_that_holds_less_than_its_header_says_ends_training(corpus: Path) -> None:
    utterance = prepared(corpus).speech.train[0].utterance
    source = Source(lambda piece: torch.zeros(10), None, 1e9)
    with pytest.raises(DataError, match="10 samples can be read, and its header says 11"):
        source(Piece(utterance, 11))
    source = Source(lambda piece: torch.zeros(10, 4), None, 1e9)
    with pytest.raises(DataError, match="10 frames can be read, and its header says 11"):
        source(Piece(utterance, 11))


def test_speakers_held_out_share_nobody_with_training(folders: Path) -> None:
    speech = prepared(folders).speech
    people = [{piece.utterance.speaker for piece in part} for part in (speech.train, speech.dev)]
    assert people[1] and not people[0] & people[1] and len(people[0] | people[1]) == 6
    assert speech.description["splits"]["dev"]["speakers"] == len(people[1])
    assert names(prepared(folders).speech.dev) == names(speech.dev)


def test_dear_speakers_stay_in_training() -> None:
    def said(speaker: str, count: int) -> list[Utterance]:
        return [Utterance(f"{speaker}-{number}", Path("a.wav"), speaker=speaker) for number in range(count)]

    spoken = [*said("much", 60), *said("some", 21), *said("a", 10), *said("b", 9)]
    for seed in range(20):
        held = hold_out(spoken, [1.0] * len(spoken), 0.1, seed)
        assert held and not any(name.startswith(("much", "some")) for name in held)
        assert {len({name for name in held if name.startswith(who)}) for who in "ab"} <= {0, 9, 10}
    assert hold_out(said("alone", 30), [1.0] * 30, 0.1, 0) == set()
    nobody = [Utterance(str(number), Path("a.wav")) for number in range(30)]
    assert len(hold_out(nobody, [1.0] * 30, 0.1, 0)) == 3


def test_a_single_speaker_trains_without_held_out_speech_and_says_so(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "one", "folder", speakers=1, utterances=4)
    said = pretrain(corpus, tmp_path / "run")
    result = result_of(tmp_path / "run")
    assert "nothing is held out" in said.out and result["metrics"] == {} and result["best_step"] == 8
    assert (tmp_path / "run" / "plots" / "reconstruction.png").is_file()


def test_a_corpus_with_splits_keeps_its_tests_out(corpus: Path, tmp_path: Path) -> None:
    speech = prepared(corpus).speech
    assert {piece.utterance.split for piece in speech.train} == {"train"} and len(speech.train) == 12
    assert {piece.utterance.split for piece in speech.dev} == {"dev"}
    assert any("4 utterance(s) of test splits left out" in note for note in speech.notes)
    limited = prepared(corpus, "data.limit=16").speech
    assert len(limited.train) + len(limited.dev) == 16, "tests do not use up the limit"
    # Without a dev split, held-out speakers are drawn from train alone.
    rows = [row for row in corpus.read_text().splitlines() if ",dev," not in row]
    rows = [row.replace(",test,", ",train,") if "spk00" in row else row for row in rows]
    (corpus.parent / "no_dev.csv").write_text("\n".join(rows) + "\n")
    for seed in range(5):
        speech = prepared(corpus.parent / "no_dev.csv", f"seed={seed},,dev_share=0.2").speech
        assert speech.dev and not {piece.utterance.speaker for piece in speech.dev} & {
            piece.utterance.speaker for piece in speech.train
        }
        assert {piece.utterance.split for piece in (*speech.train, *speech.dev)} == {"train"}


def test_a_test_split_is_left_out_unless_it_is_all_there_is(corpus: Path) -> None:
    rows = corpus.read_text().splitlines()
    (corpus.parent / "no_train.csv").write_text("\n".join(row for row in rows if ",train," not in row) + "\n")
    speech = prepared(corpus.parent / "no_train.csv", "dev_share=0.4").speech
    assert {piece.utterance.split for piece in (*speech.train, *speech.dev)} == {"dev"}
    (corpus.parent / "tests.csv").write_text("\n".join([rows[0], *(row for row in rows if ",test," in row)]) + "\n")
    speech = prepared(corpus.parent / "tests.csv", "dev_share=0.4").speech
    assert len(speech.train) + len(speech.dev) == 4


def test_any_folder_of_audio_will_do(tmp_path: Path) -> None:
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.wav", np.random.default_rng(number).normal(0, 0.1, 16000), 16000)
    speech = prepared(tmp_path).speech
    assert len(speech.train) + len(speech.dev) == 6 and speech.dev
    with pytest.raises(DataError, match="no audio"):
        (tmp_path / "empty").mkdir()
        prepared(tmp_path / "empty")


def test_rows_are_chosen_by_what_they_say(corpus: Path) -> None:
    speech = prepared(corpus, "data.where.text=sentence 1").speech
    assert {piece.utterance.labels["text"] for piece in speech.train} == {"sentence 1"} and len(speech.train) == 3


def test_utterances_too_short_to_mask_are_skipped_counted_and_said(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", "folder", speakers=6, utterances=3)
    short = [corpus / "spk00" / "00.wav", corpus / "spk03" / "01.wav"]
    for file in short:
        soundfile.write(file, 0.1 * np.ones(160 * 22), 16000)  # 23 frames: 15 % of them make no span of 7
    said = pretrain(corpus, tmp_path / "run")
    result = result_of(tmp_path / "run")
    assert "2 utterance(s) too short to learn from skipped" in said.out
    assert "2 utterance(s) too short to learn from skipped" in result["notes"]
    assert sum(part["utterances"] for part in result["data"]["splits"].values()) == 16
    shorter = prepared(corpus, "min_seconds=0.3").speech
    assert any("2 utterance(s) shorter than min_seconds (0.3) left out" in note for note in shorter.notes)


def test_audio_of_another_rate_is_resampled_where_asked(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", speakers=2, sample_rate=11025)
    assert "data.resample=true" in command("pretrain", *arguments(corpus, tmp_path / "run")).err
    pretrain(corpus, tmp_path / "run", "-o", "data.resample=true,,runner.total_steps=2")


def test_precomputed_features_are_data(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    about = {"kind": "mine", "dim": 12, "sample_rate": 16000, "stride": 160, "offset": 200}
    (tmp_path / "features" / "features.json").write_text(json.dumps(about))
    generator = np.random.default_rng(0)
    for number in range(12):
        file = tmp_path / "features" / "train" / f"{number}-0-0.npy"
        file.parent.mkdir(exist_ok=True)
        np.save(file, generator.standard_normal((40 + number, 12)).astype(np.float32))
    said = pretrain(tmp_path / "features", tmp_path / "run")
    assert "mine, 12 dims" in said.out and "crops of 0.4 s" in said.out
    parts = prepared(tmp_path / "features")
    (ready,) = parts.work.ready([Portion(0, 0, np.arange(3), 0, 1)])
    assert [tuple(part.shape) for part in ready.wavs] == [(40, 12)] * 3
    model = headwater.load(f"ckpt:{tmp_path / 'run'}")
    states = model.extract([torch.zeros(30, 12)]).hidden_states
    assert states[-1].shape == (1, 30, 16)
    assert read_header(tmp_path / "run" / "model.safetensors")["config"]["audio"] == {}
    assert "finished" in command("pretrain", "-e", str(tmp_path / "run"), "--device", "cpu").out


def test_the_target_may_be_another_feature_than_the_input(corpus: Path, tmp_path: Path) -> None:
    pretrain(corpus, tmp_path, "-o", "model.audio.target.feat_type=linear", name="mockingjay")
    tensors = read_safetensors(tmp_path / "model.safetensors")
    assert tensors["head.output.weight"].shape == (201, 16)
    assert tensors["transformer.projection.weight"].shape == (16, 80)
    assert headwater.load(f"ckpt:{tmp_path}").in_dim == 80


def test_a_crop_of_whole_length_is_one_row_of_attention(corpus: Path) -> None:
    """A centred STFT has a frame more than hops: cut as long input of the finished model is, it would be two halves."""
    parts = prepared(corpus, "crop_seconds=null,,model.task.sequence_length=30")
    assert parts.work.crop == 4800 and parts.objective.frames(4800) == 31
    x = torch.randn(1, 31, 80)
    transformer: Any = parts.objective.eval().transformer
    moved = x.clone()
    moved[0, 0] += 1
    with torch.no_grad():
        far = (transformer.last(x, torch.tensor([31])) - transformer.last(moved, torch.tensor([31])))[0, -1]
    assert far.abs().max() > 0
    assert parts.config.model["task"]["sequence_length"] == 30


def test_noise_alone_is_reconstructed_everywhere(corpus: Path) -> None:
    parts = prepared(
        corpus, "model.task.mask_proportion=0,,model.task.mask_frequency=0,,model.task.noise_proportion=0.5"
    )
    (ready,) = parts.work.ready([Portion(0, 0, np.arange(4), 0, 1)])
    _, counts = parts.objective(ready.wavs, ready.share)
    assert counts.tolist() == [80.0 * int(length) for length in ready.share.lengths]


@pytest.mark.parametrize("name", ["tera", "mockingjay", "audio_albert"])
def test_a_bare_step_of_every_objective_names_its_upstream(name: str, corpus: Path, tmp_path: Path) -> None:
    pretrain(corpus, tmp_path, "-o", "runner.total_steps=1", name=name)
    assert headwater.load(f"ckpt:{tmp_path}").card.folder.name == name


def events(folder: Path) -> list[Any]:
    (file,) = folder.glob("events.*")
    content, found = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def test_tensorboard_has_the_scalars_and_pictures(run: Path) -> None:
    found = [(value.tag, event.step, value) for event in events(run) for value in event.summary.value]
    steps: dict[str, list[int]] = {}
    for tag, step, _ in found:
        steps.setdefault(tag, []).append(step)
    assert steps == {
        "train/loss": [2, 4, 6, 8],
        "train/lr": [2, 4, 6, 8],
        "dev/loss": [4, 8],
        "reconstruction": [4, 8],
    }
    dev = {row["step"]: row["dev"]["loss"] for row in result_of(run)["history"] if "dev" in row}
    for tag, step, value in found:
        if tag == "dev/loss":
            assert value.simple_value == pytest.approx(dev[step], rel=1e-6)
        if tag == "reconstruction":
            assert value.image.encoded_image_string.startswith(b"\x89PNG") and value.image.height > 100


def test_the_folder_holds_what_the_page_says(run: Path) -> None:
    page = (ROOT / "docs" / "pretrain.md").read_text(encoding="utf-8")
    for file in run.rglob("*"):
        if file.is_file():
            name = file.relative_to(run).as_posix()
            name = "events*" if name.startswith("events") else "checkpoint/" if name.startswith("check") else name
            assert f"`{name}`" in page
    explained = page + (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert [key for key in keys(result_of(run)) if f"`{key}`" not in explained] == []
    rows = [json.loads(line) for line in (run / "scores" / "dev.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and all(f"`{key}`" in page for row in rows for key in row)


@pytest.mark.parametrize("tuned", [True, False])
def test_fine_tuning_changes_what_was_pretrained_and_freezing_does_not(
    tuned: bool, corpus: Path, run: Path, tmp_path: Path
) -> None:
    settings = "runner.total_steps=2,,runner.eval_step=2,,batch.size=4"
    flags = ["-f"] if tuned else ["--bundle"]
    said = command(
        *("run", "-u", f"ckpt:{run}", "-d", "speaker", "--data", str(corpus), "--device", "cpu"),
        *("-p", str(tmp_path), "-o", settings, *flags),
    )
    assert said.code == 0, said.err
    before = read_safetensors(run / "model.safetensors")["transformer.projection.weight"]
    file = "model.safetensors" if tuned else "upstream.safetensors"
    after = next(
        value for name, value in read_safetensors(tmp_path / file).items() if name.endswith("projection.weight")
    )
    assert torch.equal(before, after) != tuned
