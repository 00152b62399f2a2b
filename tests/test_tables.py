"""Tables and comparisons: what is read from run folders, and what people are told about it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.errors import DataError, UsageError
from headwater.metrics import Eer, Measure, MinDcf, Ratio, evaluate
from headwater.results.compare import compare, differences
from headwater.results.table import load_result, read_scores, table

ACCURACY = Ratio("accuracy", "correct", "total", chance=25.0)
CLASSES = ["east", "north", "south", "west"]


def classification_rows(right: float = 0.7, seed: int = 0, first: int = 0, speakers: int = 12) -> list[dict[str, Any]]:
    """Ten utterances of each speaker; the share `right` of the predictions is correct."""
    generator = np.random.default_rng(seed)
    rows = []
    for speaker in range(first, first + speakers):
        for k in range(10):
            label = CLASSES[k % 4]
            others = [name for name in CLASSES if name != label]
            said = label if generator.random() < right else others[int(generator.integers(3))]
            rows.append(
                {"id": f"s{speaker:02d}-{k}", "speaker": f"s{speaker:02d}", "label": label, "prediction": said,
                 "correct": int(said == label), "total": 1}
            )  # fmt: skip
    return rows


def trial_rows(gap: float = 2.0, seed: int = 0) -> list[dict[str, Any]]:
    """400 trials among 15 speakers; targets score `gap` standard deviations above the others."""
    generator = np.random.default_rng(seed)
    rows = []
    for i in range(400):
        one = int(generator.integers(15))
        other = one if i % 2 else (one + 1 + int(generator.integers(14))) % 15
        rows.append(
            {"id": f"t{i:03d}", "target": i % 2, "score": float(generator.normal(gap * (i % 2))),
             "speaker1": f"s{one}", "speaker2": f"s{other}"}
        )  # fmt: skip
    return rows


def make_run(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    measures: Sequence[Measure] = (ACCURACY,),
    *,
    upstream: str = "tera.demo",
    task: str = "directions",
    selection: str = "weighted_sum",
    seed: int = 0,
    split: str = "test",
    **changes: Any,
) -> Path:
    """A finished run as the runner writes it, with `rows` as the scores of `split`."""
    metrics = {name: metric.to_json() for name, metric in evaluate(measures, rows).items()}
    result = {
        "schema": 1,
        "status": "done",
        "upstream": {
            "name": upstream,
            "weights_sha256": "ab" * 32,
            "selection": selection,
            "fine_tuned": False,
            "layer_names": ["input", "block 1", "block 2"],
            "layer_weights": [0.2, 0.5, 0.3],
        },
        "downstream": {"name": task, "metric": measures[0].name},
        "data": {
            "name": "demo",
            "reader": "manifest",
            "path": "data/demo",
            "sha256": "cd" * 32,
            "splits": {"train": {"utterances": 300, "seconds": 512.5, "speakers": 30}},
            "skipped": [],
        },
        "metrics": {"dev": metrics, split: metrics},
        "best_step": 40,
        "steps": 60,
        "seed": seed,
        "parameters": 1234,
        "config_sha256": "ef" * 32,
        "timing": {"extract_s": 1.5, "train_s": 2.0, "evaluate_s": 0.5, "total_s": 4.0},
        "versions": {"headwater": "0.1", "torch": "2.13"},
        "notes": [],
        "history": [
            *({"step": step, "loss": 2.0 / (1 + step)} for step in range(0, 60, 2)),
            *({"step": step, "dev": {measures[0].name: float(step)}} for step in (20, 40, 60)),
        ],
        **changes,
    }
    (folder / "scores").mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    (folder / "scores" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "config.yaml").write_text("seed: 0\nrunner:\n  steps: 60\n", encoding="utf-8")
    return folder


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "result.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_a_finished_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = classification_rows()
    folder = make_run(tmp_path / "run", rows)
    assert load_result(folder)["metrics"]["test"]["accuracy"]["n"] == len(rows)
    assert read_scores(folder, "test") == rows


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 2}, "schema 2; this version of Headwater reads schema 1"),
        ({"status": "running"}, "status 'running'"),
        ({"metrics": None}, "lacks the key 'metrics'"),
        ({"upstream": {}}, "'upstream' is incomplete"),
        (
            {"metrics": {"test": {"accuracy": {"value": 3.0}}}},
            "result.json, metrics, test: A metric lacks the key 'unit'",
        ),
        ({"metrics": {"test": {"accuracy": 3.0}}}, "result.json, metrics, test"),
    ],
)
def test_an_unfinished_or_foreign_result_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = make_run(tmp_path / "run", classification_rows())
    rewrite(folder, **changes)
    with pytest.raises(DataError, match=said):
        table([folder])


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        load_result(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no result\.json"):
        load_result(tmp_path)
    with pytest.raises(UsageError, match="at least one run folder"):
        table([])


@pytest.mark.parametrize("content", ["{", '{"schema": 1, "x": NaN}', "[]", "[" * 100_000, "\udcff"])
def test_broken_json_is_refused_naming_the_file(tmp_path: Path, content: str) -> None:
    folder = make_run(tmp_path / "run", classification_rows())
    (folder / "result.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"result\.json"):
        table([folder])


def test_a_broken_line_of_scores_is_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", classification_rows())
    with (folder / "scores" / "test.jsonl").open("a") as file:
        file.write('{"id": "cut')
    with pytest.raises(DataError, match=r"test\.jsonl, line 121 is not valid JSON"):
        read_scores(folder, "test")


def test_an_unknown_split_names_those_there_are(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", classification_rows())
    with pytest.raises(DataError, match=r"'tset'. Did you mean 'test'\? It has dev, test"):
        table([folder], split="tset")


def test_text_has_a_row_a_run_with_aligned_columns(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / "a", classification_rows(0.9)),
        make_run(tmp_path / "b", classification_rows(0.4), upstream="fbank", selection="last_hidden_state", seed=7),
    ]
    lines = table(folders, width=200).splitlines()
    value = load_result(folders[1])["metrics"]["test"]["accuracy"]
    low, high = value["ci95"]
    assert lines[0].split() == ["upstream", "selection", "task", "seed", "n", "accuracy", "(%)"]
    assert lines[3].split("  ")[-1].strip() == f"{value['value']:.2f} [{low:.2f}, {high:.2f}]"
    assert lines[3].split()[:5] == ["fbank", "last_hidden_state", "directions", "7", "120"]
    for start in ("selection", "task"):
        column = lines[0].index(start)
        assert all(line[column - 1] == " " and line[column] != " " for line in (lines[0], lines[2], lines[3]))
    assert "95 % interval" in lines[5]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_text_fits_the_terminal_and_loses_nothing(tmp_path: Path, width: int) -> None:
    measures: list[Measure] = [Eer(), MinDcf("min_dcf_p0.01", 0.01)]
    folders = [
        make_run(tmp_path / name, trial_rows(seed=seed), measures, upstream=name, task="speaker_verification")
        for seed, name in enumerate(("a_rather_long_name_of_a_model_large_ll60k", "short"))
    ]
    text = table(folders, width=width)
    assert max(map(len, text.splitlines())) <= width
    for part in ("short", "speaker_verification", "weighted_sum", "eer", "min_dcf_p0.01"):
        assert part in text
    first = [line.split("  ")[0].strip() for line in text.splitlines()]
    assert "a_rather_long_name_of_a_model_large_ll60k" in "".join(first)
    for folder in folders:
        for metric in load_result(folder)["metrics"]["test"].values():
            assert f"{metric['value']:.{2 if metric['unit'] else 4}f}" in text


def test_tasks_that_do_not_fit_side_by_side_get_a_table_each(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / "a", classification_rows(0.9)),
        make_run(tmp_path / "b", trial_rows(), [Eer(), MinDcf("min_dcf_p0.01", 0.01)], task="verification"),
        make_run(tmp_path / "c", classification_rows(0.6), upstream="fbank"),
    ]
    heads = [line.split() for line in table(folders, width=90).splitlines() if line.startswith("upstream")]
    assert [("accuracy" in head, "eer" in head) for head in heads] == [(True, False), (False, True)]
    assert len([line for line in table(folders, width=150).splitlines() if line.startswith("upstream")]) == 1


def test_csv_holds_the_exact_numbers_and_quotes_what_it_must(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / "a", classification_rows(0.9), upstream='odd, "name"'),
        make_run(tmp_path / "b", trial_rows(), [Eer()], task="verification"),
    ]
    one, other = csv.DictReader(io.StringIO(table(folders, "csv")))
    metric = load_result(folders[0])["metrics"]["test"]["accuracy"]
    assert one["upstream"] == 'odd, "name"'
    assert [float(one[f"accuracy{end}"]) for end in ("", "_low", "_high")] == [metric["value"], *metric["ci95"]]
    assert (one["eer"], other["accuracy"], other["eer_unit"], other["n"]) == ("", "", "%", "400")
    assert one["folder"] == str(folders[0])


def test_html_is_one_page_with_everything_escaped(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    folders = [
        make_run(tmp_path / "a", classification_rows(0.9), upstream=hostile),
        make_run(tmp_path / "b", classification_rows(0.8)),
    ]
    page = table(folders, "html")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("data:image/svg+xml;base64,") == 1
    assert "http://" not in page and "https://" not in page


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", classification_rows(), upstream="x\x1b[31m\ny")
    assert "\x1b" not in table([folder])
    assert "x [31m y" in table([folder], width=200)


def test_what_an_interval_cannot_say_is_said_below_the_table(tmp_path: Path) -> None:
    guessing = make_run(tmp_path / "a", classification_rows(0.25), upstream="noise")
    flawless = make_run(tmp_path / "b", classification_rows(1.0))
    text = table([guessing, flawless], width=200)
    assert "noise, weighted_sum, directions, accuracy: the interval includes chance (25.00 %)" in text
    assert "Clopper-Pearson" in text


def test_pooled_folds_equal_one_evaluation_of_all_their_rows(tmp_path: Path) -> None:
    folds = [classification_rows(0.7, seed=fold, first=12 * fold) for fold in range(3)]
    folders = [make_run(tmp_path / str(fold), rows, seed=fold) for fold, rows in enumerate(folds)]
    folders.append(make_run(tmp_path / "other", classification_rows(0.5), upstream="fbank"))
    pooled, other = csv.DictReader(io.StringIO(table(folders, "csv", pool=True)))
    expected = evaluate([ACCURACY], [row for rows in folds for row in rows])["accuracy"]
    assert expected.ci95 is not None
    assert [float(pooled[f"accuracy{end}"]) for end in ("", "_low", "_high")] == [expected.value, *expected.ci95]
    assert (pooled["n"], pooled["folds"], pooled["clusters"], pooled["seed"]) == ("360", "3", "36", "0, 1, 2")
    assert (other["upstream"], other["folds"]) == ("fbank", "1")
    assert float(other["accuracy"]) == load_result(folders[3])["metrics"]["test"]["accuracy"]["value"]


def test_folds_that_score_the_same_utterance_are_not_pooled(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / str(seed), classification_rows(seed=seed), seed=seed) for seed in range(2)]
    with pytest.raises(DataError, match="'s00-0' is in the test scores of both"):
        table(folders, pool=True)


def test_folds_measured_in_different_ways_are_not_pooled(tmp_path: Path) -> None:
    rows = trial_rows()
    one = make_run(tmp_path / "a", rows[:200], [Eer()])
    other = make_run(tmp_path / "b", rows[200:], [Eer(convention="asvspoof")])
    with pytest.raises(DataError, match="measure 'eer' in different ways"):
        table([one, other], pool=True)


def test_chance_is_given_up_where_folds_differ_in_it(tmp_path: Path) -> None:
    folders = [
        make_run(
            tmp_path / str(fold),
            classification_rows(first=12 * fold),
            [Ratio("accuracy", "correct", "total", chance=20.0 + fold)],
        )
        for fold in range(2)
    ]
    (pooled,) = csv.DictReader(io.StringIO(table(folders, "csv", pool=True)))
    assert pooled["accuracy_chance"] == ""


def test_other_weights_under_the_same_name_are_another_system(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", classification_rows())
    other = make_run(tmp_path / "b", classification_rows())
    rewrite(other, upstream={**load_result(other)["upstream"], "weights_sha256": "00" * 32})
    assert len(list(csv.DictReader(io.StringIO(table([one, other], "csv", pool=True))))) == 2


def test_a_clear_difference_is_said_to_exclude_zero_whichever_comes_first(tmp_path: Path) -> None:
    good = make_run(tmp_path / "good", classification_rows(0.95))
    poor = make_run(tmp_path / "poor", classification_rows(0.4), upstream="fbank")
    assert differences(good, poor)["accuracy"].better == "A"
    assert differences(poor, good)["accuracy"].better == "B"
    text = " ".join(compare(poor, good).split())
    assert "B is better by" in text and "the interval excludes 0" in text
    assert "fbank" in text and "tera.demo" in text and "120 rows of test" in text


def test_lower_is_better_for_error_rates(tmp_path: Path) -> None:
    good = make_run(tmp_path / "good", trial_rows(3.0), [Eer(), MinDcf("min_dcf", 0.05)])
    poor = make_run(tmp_path / "poor", trial_rows(0.5), [Eer(), MinDcf("min_dcf", 0.05)])
    found = differences(good, poor)
    assert [pair.better for pair in found.values()] == ["A", "A"]
    assert found["eer"].difference.value < 0
    assert found["eer"].sentence.startswith(f"A is better by {-found['eer'].difference.value:.2f} percentage points")


def test_a_small_difference_is_not_called_one(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", classification_rows(0.7, seed=1))
    other = make_run(tmp_path / "b", classification_rows(0.7, seed=2))
    pair = differences(one, other)["accuracy"]
    assert pair.better is None
    assert "No difference is shown" in pair.sentence and "includes 0" in pair.sentence


def test_runs_on_other_data_are_not_compared(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", classification_rows())
    other = make_run(tmp_path / "b", classification_rows(first=1))
    with pytest.raises(
        DataError, match=r"cannot be compared on test.*10 of 120 ids are missing from the second result: 's00-0'"
    ):
        compare(one, other)


def test_metrics_computed_in_another_way_are_left_out_and_named(tmp_path: Path) -> None:
    rows = trial_rows()
    one = make_run(tmp_path / "a", rows, [Eer(), MinDcf("min_dcf", 0.05)])
    other = make_run(tmp_path / "b", rows, [Eer(convention="asvspoof"), MinDcf("min_dcf", 0.05)])
    assert list(differences(one, other)) == ["min_dcf"]
    assert "computed it in another way: eer" in compare(one, other)
    third = make_run(tmp_path / "c", classification_rows())
    with pytest.raises(DataError, match="share no metric"):
        compare(one, third)
