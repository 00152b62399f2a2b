"""The task asv_spoof from data to result: official layouts, measures and conditions, losses, prediction, fine-tuning, and what wrong use says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, Answer
from countermeasures import published, published_state
from headwater.downstream.asv_spoof.expert import AsvSpoof, AsvSpoofConfig
from spoof_corpora import (
    WITH_TRAIN,
    SpoofClip,
    asv_file,
    make_2019,
    make_2021,
    make_asv_2021,
    make_asv_scores,
    make_protocols,
    make_table,
    of_split,
    spoof_clips,
    write_lines,
)

import headwater
from headwater import audio
from headwater.cli.run_settings import parser, settings_of
from headwater.config import DataConfig, RunConfig
from headwater.data.corpus import Utterance
from headwater.errors import DataError
from headwater.metrics import eer
from headwater.nn.upstream import UpstreamSpec
from headwater.settings import read_recipe, validate
from headwater.train.task import Item, make_batch

RECIPES = ROOT / "config" / "downstream" / "asv_spoof"
CLIPS = spoof_clips()
QUICK = ("--device", "cpu", "-o", "runner.total_steps=20,,runner.eval_step=20")
LINEAR = ("run", "-u", "fbank_no_cmvn", "-d", "asv_spoof_linear", *QUICK)


def result(folder: str) -> dict[str, Any]:
    return json.loads(Path(folder, "result.json").read_text())


def rows(folder: str, split: str = "test") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "scores", f"{split}.jsonl").read_text().splitlines()]


def test_from_a_folder_laid_out_as_asvspoof_2019_la_to_every_measure_in_one_command(
    tmp_path: Path, command: Callable[..., Answer]
) -> None:
    folder = make_2019(tmp_path / "LA", CLIPS)
    for split in ("dev", "eval"):
        make_asv_scores(asv_file(folder, split), of_split(CLIPS, split))
    said = command(*LINEAR, "--data", folder, "-p", "run")
    assert said.code == 0, said.err
    found = result("run")["metrics"]
    measures = {"eer", "min_dcf", "act_dcf", "cllr", "min_tdcf_2019", "min_tdcf_2021"}
    assert set(found["test"]) == set(found["dev"]) == measures
    assert found["test"]["eer"]["measure"]["convention"] == "asvspoof"
    speakers = {clip.speaker for clip in of_split(CLIPS, "eval")}
    assert all(metric["clusters"] == len(speakers) for metric in found["test"].values())
    scored = rows("run")
    assert {(row["id"], row["speaker"], row["attack"], row["target"]) for row in scored} == {
        (clip.name, clip.speaker, clip.attack, int(clip.label == "bonafide")) for clip in of_split(CLIPS, "eval")
    }
    by_class = [[row["score"] for row in scored if row["target"] == target] for target in (1, 0)]
    assert found["test"]["eer"]["value"] == pytest.approx(100 * eer(*by_class, "asvspoof"))
    assert result("run")["downstream"]["metric"] == "eer"


def test_asv_scores_can_be_named_and_change_what_a_run_is(tmp_path: Path, command: Callable[..., Answer]) -> None:
    table = make_table(tmp_path / "table", CLIPS)
    hashes = set()
    for seed, settings in ((None, ""), (0, "one.txt"), (1, "two.txt")):
        more = (
            ()
            if seed is None
            else ("-o", f"data.asv_scores={make_asv_scores(tmp_path / settings, of_split(CLIPS, 'eval'), seed)}")
        )
        said = command(*LINEAR, "--data", table, "-p", f"run{seed}", *more)
        assert said.code == 0, said.err
        assert ("min_tdcf_2019" in result(f"run{seed}")["metrics"]["test"]) == (seed is not None)
        assert "min_tdcf_2019" not in result(f"run{seed}")["metrics"]["dev"]
        hashes.add(result(f"run{seed}")["data"]["sha256"])
    assert len(hashes) == 3


def test_every_layout_trains_and_gives_the_same_scores(tmp_path: Path, command: Callable[..., Answer]) -> None:
    scores = []
    for layout, make in WITH_TRAIN.items():
        said = command(*LINEAR, "--data", make(tmp_path / layout, CLIPS), "-p", f"run-{layout}")
        assert said.code == 0, said.err
        scores.append({row["id"]: row["score"] for row in rows(f"run-{layout}")})
    assert all(other == scores[0] for other in scores)


def test_a_run_is_evaluated_on_keys_of_2021_and_its_result_parted_by_codec(
    tmp_path: Path, command: Callable[..., Answer]
) -> None:
    said = command(*LINEAR, "--data", make_protocols(tmp_path / "train", CLIPS), "-p", "run")
    assert said.code == 0, said.err
    other = make_2021(tmp_path / "2021", CLIPS)
    said = command("run", "-m", "evaluate", "-e", "run", "--data", other, "--out", "scores.jsonl", "--device", "cpu")
    assert said.code == 0, said.err
    printed = said.out.partition("by attack")[2]
    assert all(attack in printed for attack in {clip.attack for clip in CLIPS if clip.split == "eval"} - {"-"})
    scored = [json.loads(line) for line in Path("scores.jsonl").read_text().splitlines()]
    assert len(scored) == 6 * 4 and {row["codec"] for row in scored} == {"alaw"}
    said = command(*LINEAR, "--data", other, "-p", "trained")
    assert said.code == 3 and "has no train split" in said.err


def test_asv_scores_go_with_the_corpus_that_they_are_of(tmp_path: Path) -> None:
    # The corpora of 2019 and 2021 have the same attacks, so these do not tell.
    scored = [clip for clip in CLIPS if clip.split == "eval"]
    old, new = make_asv_scores(tmp_path / "old.txt", scored), make_asv_2021(tmp_path / "new", scored)
    renamed = [replace(clip, name=f"other-{clip.name}") for clip in scored]
    others = make_asv_2021(tmp_path / "others", renamed)

    def items(transmitted: bool) -> list[Item]:
        said = {"transmission": "ita_tx"} if transmitted else {}
        return [
            Item(
                Utterance(clip.name, Path("x"), labels={"attack": clip.attack, **said}),
                1,
                {"target": int(clip.attack == "-")},
            )
            for clip in scored
        ]

    for file, transmitted, said in (
        (old, False, None),
        (new, True, None),
        (old, True, "are of another corpus"),
        (new, False, "are of another corpus"),
        (others, True, "no spoof of the ASV's"),
    ):
        task = AsvSpoof(AsvSpoofConfig(), DataConfig(asv_scores=str(file)), seed=0)
        if said is None:
            assert [measure.name for measure in task._tandem("test", items(transmitted))] == [
                "min_tdcf_2019",
                "min_tdcf_2021",
            ]
        else:
            with pytest.raises(DataError, match=said):
                task._tandem("test", items(transmitted))


def test_scores_say_of_an_utterance_what_is_known_in_the_words_of_keys() -> None:
    task = AsvSpoof(AsvSpoofConfig(), DataConfig(), seed=0)

    def facts(target: int, **labels: str) -> dict[str, Any]:
        return task.facts(Item(Utterance("x", Path("x"), speaker="-", labels=labels), 1, {"target": target}))

    assert facts(1, attack="", codec="-", other="y") == {"attack": "-", "codec": "none"}
    assert facts(0, attack="A01", vocoder="-", codec="") == {"attack": "A01"}
    assert facts(0, attack="-") == {}
    assert facts(0, gender="-") == {} and facts(1, gender="-") == {"gender": "-"}


def test_predict_writes_the_score_that_evaluation_gives(tmp_path: Path, command: Callable[..., Answer]) -> None:
    folder = make_protocols(tmp_path / "corpus", CLIPS)
    assert command(*LINEAR, "--data", folder, "-p", "run").code == 0
    said = command("run", "-m", "predict", "-e", "run", "--device", "cpu", "--out", "out.csv", folder / "flac")
    assert said.code == 0, said.err
    header, *lines = Path("out.csv").read_text().splitlines()
    assert header == "id,score"
    predicted = {Path(line.rpartition(",")[0]).stem: float(line.rpartition(",")[2]) for line in lines}
    assert len(predicted) == len(CLIPS)
    for row in rows("run"):
        assert predicted[row["id"]] == pytest.approx(row["score"], abs=1e-5)


def test_the_upstream_is_fine_tuned_at_its_own_rate(tmp_path: Path, command: Callable[..., Answer]) -> None:
    folder = make_protocols(tmp_path / "corpus", CLIPS)
    weights = {}
    for rate in ("1e-12", "1e-3"):
        said = command(
            "run", "-u", "tera", "-d", "asv_spoof_linear", "--data", folder, "--device", "cpu", "-f", "--upstream_lr", rate, "-p", rate,
            "-o", "upstream.config.random_weights=0,,runner.total_steps=2,,runner.eval_step=2,,optimizer.weight_decay=0",
            "-o", "upstream.config.transformer.hidden_size=16,,upstream.config.transformer.num_attention_heads=2",
            "-o", "upstream.config.transformer.num_hidden_layers=1,,upstream.config.transformer.intermediate_size=32",
        )  # fmt: skip
        assert said.code == 0, said.err
        assert result(rate)["upstream"]["fine_tuned"]
        weights[rate] = rows(rate)
    slow, fast = ([row["score"] for row in weights[rate]] for rate in ("1e-12", "1e-3"))
    assert not np.allclose(slow, fast, atol=1e-6)


def spec(layers: int, dim: int = 24) -> UpstreamSpec:
    return UpstreamSpec("any", 16000, 160, 200.0, dim, (dim,) * layers, tuple(f"layer {n}" for n in range(layers)))


def task_of(**system: Any) -> AsvSpoof:
    config = AsvSpoofConfig.model_validate({"system": system})
    task = AsvSpoof(config, DataConfig(), 1337)
    task.restore(task.state())
    return task


def test_a_front_end_goes_straight_in_and_many_layers_through_a_linear_one() -> None:
    assert task_of().head(spec(1)).config.input == "none"
    assert task_of().head(spec(3)).config.input == "linear"
    assert task_of(input="linear").head(spec(1)).config.input == "linear"


@pytest.mark.parametrize("loss", ["sigmoid", "ce", "am", "oc", "p2sgrad", "asoftmax"])
def test_the_loss_is_a_sum_over_utterances_with_its_count(loss: str) -> None:
    torch.manual_seed(0)
    task = task_of(input="none", trunk="none", ending="mean", loss=loss)
    head = task.head(spec(1)).eval()
    frames, lengths = torch.randn(4, 30, 24), torch.tensor([30, 20, 30, 10])
    items = [Item(Utterance(str(n), Path(f"{n}.wav")), 4800, {"target": n % 2}) for n in range(4)]

    def losses(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        batch = make_batch(items[part], lengths[part], 160, 200.0)
        return task.loss(head(frames[part], lengths[part], {}), batch)

    whole, halves = losses(slice(0, 4)), [losses(slice(0, 2)), losses(slice(2, 4))]
    assert int(whole[1]) == 4 and [int(count) for _, count in halves] == [2, 2]
    torch.testing.assert_close(whole[0], halves[0][0] + halves[1][0])


def test_the_piece_that_is_scored_is_a_function_of_seed_and_utterance() -> None:
    one, two = Utterance("a", Path("x/a.wav")), Utterance("b", Path("b.wav"))
    task, other = task_of(), AsvSpoof(AsvSpoofConfig(), DataConfig(), 7)
    assert task.inputs(one) == task.inputs(Utterance("a", Path("elsewhere/a.flac"))) != task.inputs(two)
    assert task.inputs(one) != other.inputs(one)


def line(clip: SpoofClip) -> str:
    return f"{clip.speaker} {clip.name} - {clip.attack} {clip.label}"


def drop(folder: Path, *clips: SpoofClip) -> None:
    for clip in clips:
        (folder / "flac" / f"{clip.name}.flac").unlink()


def one_class(folder: Path) -> None:
    write_lines(folder / "protocol.dev.txt", [line(clip) for clip in of_split(CLIPS, "dev") if clip.attack == "-"])


def other_asv(folder: Path) -> None:
    make_asv_scores(folder / "asv.txt", of_split(CLIPS, "train"))


def broken_asv(folder: Path) -> None:
    write_lines(folder / "asv.txt", ["bonafide target 1.0", "bonafide nontarget high"])


FAULTS: dict[str, tuple[Callable[[Path], None], tuple[str, ...], tuple[str, ...]]] = {
    "missing files": (lambda folder: drop(folder, *CLIPS[:3]), (), (f"3 of {len(CLIPS)} utterances cannot be used", CLIPS[0].name, "--skip-bad-audio")),
    "one class in a split": (one_class, (), ("of dev are bonafide", "need both")),
    "ASV scores of another part": (other_asv, ("-o", "data.asv_scores=asv.txt"), ("asv.txt", "A01", "another corpus or part")),
    "ASV scores in words": (broken_asv, ("-o", "data.asv_scores=asv.txt"), ("asv.txt:2", "'high'", "finite number")),
    "no ASV scores": (lambda folder: None, ("-o", "data.asv_scores=nix.txt"), ("nix.txt cannot be read",)),
    "no such label column": (lambda folder: None, ("-o", "data.label_column=key"), ("no column 'key'", "attack, label", "data.label_column=NAME")),
    "labels of something else": (lambda folder: None, ("-o", "data.label_column=attack"), ("has the attack", "neither bonafide nor spoof")),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_data_ends_in_words_and_leaves_no_run(
    fault: str, tmp_path: Path, command: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    change, more, words = FAULTS[fault]
    folder = make_protocols(tmp_path / "corpus", CLIPS)
    change(folder)
    monkeypatch.chdir(folder)
    said = command(*LINEAR, "--data", folder, "-p", "run", *more)
    assert said.code == 3, said.out + said.err
    assert all(word in said.err for word in words), said.err
    assert "Traceback" not in said.err and not Path("run").exists()


def test_missing_files_are_passed_over_when_told_to(tmp_path: Path, command: Callable[..., Answer]) -> None:
    folder = make_protocols(tmp_path / "corpus", CLIPS)
    drop(folder, *CLIPS[:3])
    said = command(*LINEAR, "--data", folder, "-p", "run", "--skip-bad-audio")
    assert said.code == 0, said.err
    assert {one["id"] for one in result("run")["data"]["skipped"]} == {clip.name for clip in CLIPS[:3]}


def test_a_speaker_of_two_splits_is_noted(tmp_path: Path, command: Callable[..., Answer]) -> None:
    speaker = of_split(CLIPS, "train")[0].speaker
    clips = [
        clip if clip.split != "eval" else SpoofClip(clip.name, "eval", speaker, clip.attack, clip.sound)
        for clip in CLIPS
    ]
    said = command(*LINEAR, "--data", make_protocols(tmp_path / "corpus", clips), "-p", "run", "--dry-run")
    assert said.code == 0 and f"1 speakers are in train and in test: {speaker}" in said.out


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ((), 0, "upstream   lfcc:"),
        (("-u", "nii_lfcc"), 0, "upstream   lfcc:"),
        (
            ("-u", "fbank"),
            2,
            "-v lfcc-lcnn-lstmsum-p2s is made for the upstream nii_lfcc, so -u fbank does not go with it",
        ),
    ],
)
def test_a_recipe_that_names_its_upstream_needs_none_and_takes_no_other(
    more: tuple[str, ...], code: int, words: str, tmp_path: Path, command: Callable[..., Answer]
) -> None:
    folder = make_protocols(tmp_path / "corpus", CLIPS)
    recipe = ("run", "-d", "asv_spoof", "-v", "lfcc-lcnn-lstmsum-p2s", "--data", folder, "--device", "cpu", "--dry-run")
    said = command(*recipe, *more)
    assert said.code == code and words in said.out + said.err, said.out + said.err


def test_the_default_is_the_published_training_and_the_demo_s_is_short(command: Callable[..., Answer]) -> None:
    def settled(*words: str) -> RunConfig:
        return validate(RunConfig, settings_of(parser().parse_args(["-u", "lfcc", "-d", "asv_spoof", *words]))[0])

    published = validate(
        RunConfig, {**read_recipe(RECIPES / "nii.yaml"), "upstream": {"name": "lfcc"}, "downstream": "asv_spoof"}
    )
    for part in ("optimizer", "scheduler", "runner", "batch"):
        assert getattr(settled("--data", "LA"), part) == getattr(published, part)
        assert getattr(settled("-v", "nii"), part) == getattr(published, part)
    assert settled().runner.epochs < published.runner.epochs
    assert settled().batch != published.batch == settled("-o", "data.path=LA").batch


def test_published_weights_are_scored_as_they_stand(tmp_path: Path, command: Callable[..., Answer]) -> None:
    """Without training data, by the system of the recipe, and from the run alone once it is there."""
    folder, file = make_protocols(tmp_path / "corpus", CLIPS), tmp_path / "theirs.pt"
    name = "lfcc-lcnn-lstmsum-sig"
    torch.save(published_state(name), file)
    for split in ("train", "dev"):
        (folder / f"protocol.{split}.txt").unlink()
    told = ("-o", f"task.system.weights={file},,task.train=false", "--data", folder, "--device", "cpu", "-p", "run")
    other = command("run", "-d", "asv_spoof", "-v", "lfb-lcnn-lstmsum-sig", *told)
    assert other.code == 2 and "trained on the front-end nii_lfcc" in other.err and not Path("run").exists()
    said = command("run", "-d", "asv_spoof", "-v", name, *told)
    assert said.code == 0, said.err
    assert any("not used are" in note for note in result("run")["notes"])
    system, model = published(name, tmp_path), headwater.load("nii_lfcc")
    for row in rows("run"):
        wav = audio.read(folder / "flac" / f"{row['id']}.flac")
        features = model.extract([wav])
        with torch.no_grad():
            score = system.criterion.score(system(features.last_hidden_state, features.lengths)[1])
        assert row["score"] == pytest.approx(float(score), abs=1e-4)
    file.unlink()
    again = command(
        "run", "-m", "predict", "-e", "run", "--device", "cpu", folder / "flac" / f"{rows('run')[0]['id']}.flac"
    )
    assert again.code == 0 and json.loads(again.out.splitlines()[-1])["score"] == pytest.approx(
        rows("run")[0]["score"], abs=1e-5
    )


def test_weights_are_needed_where_nothing_is_trained(command: Callable[..., Answer]) -> None:
    said = command("run", "-u", "lfcc", "-d", "asv_spoof", "-o", "task.train=false", "--dry-run")
    assert said.code == 2 and "system.weights=FILE" in said.err


def test_seeds_are_trained_side_by_side(tmp_path: Path, command: Callable[..., Answer]) -> None:
    folder = make_protocols(tmp_path / "corpus", CLIPS)
    said = command(*LINEAR, "--data", folder, "-p", "many", "--seeds", "2")
    assert said.code == 0, said.err
    for seed in (1337, 1338):
        assert command(*LINEAR, "--data", folder, "-p", f"seed{seed}", "--seed", seed).code == 0
    alone = {row["id"]: row["score"] for row in rows("seed1337")}
    assert {row["id"]: row["score"] for row in rows("many")} == pytest.approx(alone, abs=1e-4)


def test_real_clips_laid_out_as_2019_give_every_measure(
    shared: Path, tmp_path: Path, command: Callable[..., Answer]
) -> None:
    """`data/antispoof`: 108 real clips. Its numbers rank nothing; this is the way from the official tree to the official measures."""
    folder, clips = shared / "data" / "antispoof", []
    for split in ("train", "dev", "eval"):
        for text in (folder / f"protocol.{split}.txt").read_text().splitlines():
            speaker, name, _, attack, _ = text.split()
            clips.append(SpoofClip(name, split, speaker, attack, folder / "flac" / f"{name}.flac"))
    tree = make_2019(tmp_path / "LA", clips)
    for split in ("dev", "eval"):
        make_asv_scores(asv_file(tree, split), of_split(clips, split))
    said = command(
        "run",
        "-u",
        "lfcc",
        "-d",
        "asv_spoof",
        "--data",
        tree,
        "-p",
        "run",
        "--device",
        "cpu",
        "-o",
        "runner.epochs=1,,runner.eval_step=2",
    )
    assert said.code == 0, said.err
    found = result("run")["metrics"]["test"]
    assert found["eer"]["n"] == 36
    assert {"eer", "min_dcf", "cllr", "min_tdcf_2019"} <= set(found)
