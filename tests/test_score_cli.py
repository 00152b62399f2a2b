"""`headwater score asv_spoof`: every form of score file and key gives the same numbers, and what does not fit is said with file and line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Answer
from spoof_parity import arrays, expected

from headwater.metrics import asv_rates, eer, min_tdcf

Command = Callable[..., Answer]
ATTACKS = ("A07", "A08")
CODECS = ("none", "alaw")


class Corpus:
    """48 trials of 12 speakers, two attacks and two codecs, in all forms of the challenges."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.trials = [
            {
                "id": f"LA_E_{k:04d}",
                "speaker": f"LA_{k % 12:04d}",
                "attack": ("-", "-", *ATTACKS)[k // 12],
                "codec": CODECS[k % 2],
                "label": "spoof" if k // 12 >= 2 else "bonafide",
                "score": round(float(generator.normal(2 * (k // 12 < 2))), 6),
            }
            for k in range(48)
        ]
        kinds = [("bonafide", "target", 3.0)] * 40 + [("bonafide", "nontarget", 0.0)] * 60
        kinds += [(attack, "spoof", 1.5 + number) for number, attack in enumerate(ATTACKS) for _ in range(30)]
        self.asv = [
            {
                "attack": attack,
                "kind": kind,
                "codec": CODECS[k % 2],
                "score": round(mean + float(generator.normal()), 6),
            }
            for k, (attack, kind, mean) in enumerate(kinds)
        ]

    def write(self, name: str, form: str, trials: list[dict[str, Any]] | None = None) -> str:
        """A file of lines in which {names} of a trial stand."""
        head, _, line = form.rpartition("\n")
        rows = self.trials if trials is None else trials
        Path(name).write_text(
            "".join(f"{text}\n" for text in ([head] if head else []) + [line.format(**row) for row in rows])
        )
        return name

    def scores(self, **kinds: Any) -> list[np.ndarray]:
        """Bona fide, spoof."""
        chosen = [row for row in self.trials if all(row[key] in (value, "-") for key, value in kinds.items())]
        return [np.array([row["score"] for row in chosen if row["label"] == label]) for label in ("bonafide", "spoof")]

    def asv_scores(self, attack: str | None = None) -> list[np.ndarray]:
        return [
            np.array(
                [
                    row["score"]
                    for row in self.asv
                    if row["kind"] == kind and (kind != "spoof" or attack in (None, row["attack"]))
                ]
            )
            for kind in ("target", "nontarget", "spoof")
        ]


SCORES_2019 = "{id} {attack} {label} {score}"
PLAIN = "{id} {score}"
PROTOCOL = "{speaker} {id} - {attack} {label}"
LA_KEY = "{speaker} {id} {codec} ita_tx {attack} {label} notrim eval"
DF_KEY = "{speaker} {id} {codec} asvspoof {attack} {label} notrim eval vocoder_{attack} - - - -"
KEY_5 = "{speaker} {id} F {codec} - - AC1 {attack} {label} -"
ASV_2019 = "{attack} {kind} {score}"


@pytest.fixture()
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.chdir(tmp_path)
    return Corpus()


def measured(command: Command, *arguments: object) -> dict[str, Any]:
    answer = command("score", "asv_spoof", *arguments, "--json", "found.json")
    assert answer.code == 0, answer.err
    found: dict[str, Any] = json.loads(Path("found.json").read_text())
    return found


def refused(command: Command, *arguments: object) -> Answer:
    answer = command("score", "asv_spoof", *arguments, "--json", "found.json")
    assert answer.code in (2, 3), answer
    assert "Traceback" not in answer.err
    assert not Path("found.json").exists()
    return answer


@pytest.mark.parametrize(
    ("scores", "key", "clusters", "by"),
    [
        (SCORES_2019, None, 48, ["attack"]),
        (SCORES_2019, PROTOCOL, 12, ["attack"]),
        (PLAIN, PROTOCOL, 12, ["attack"]),
        (PLAIN, LA_KEY, 12, ["attack", "codec"]),
        (PLAIN, DF_KEY, 12, ["attack", "codec", "vocoder"]),
        (PLAIN, KEY_5, 12, ["attack", "codec"]),
        ("filename\tcm-score\n{id}\t{score}", "filename\tcm-label\n{id}\t{label}", 48, []),
        ("filename\tcm-score\n{id}\t{score}", KEY_5, 12, ["attack", "codec"]),
        (PLAIN, "path,label,speaker,attack\nsome/where/{id}.wav,{label},{speaker},{attack}", 12, ["attack"]),
        (PLAIN, "path,label\n{id}.flac,{label}", 48, []),
        (PLAIN, "id,codec,label\n{id},{codec},{label}", 48, ["codec"]),
    ],
)
def test_every_form_gives_the_same_numbers(
    scores: str, key: str | None, clusters: int, by: list[str], corpus: Corpus, command: Command
) -> None:
    options = [] if key is None else ["--key", corpus.write("key", key)]
    found = measured(command, corpus.write("scores.txt", scores), *options)
    assert found["metrics"]["eer"]["value"] == pytest.approx(100 * eer(*corpus.scores(), "asvspoof"))
    assert {metric["clusters"] for metric in found["metrics"].values()} == {clusters}
    assert list(found["breakdowns"]) == by
    assert any("no speaker" in note for note in found["notes"]) == (clusters == 48)
    for group in found["breakdowns"].get("attack", {"groups": {}})["groups"]:
        value = found["breakdowns"]["attack"]["groups"][group]["eer"]["value"]
        assert value == pytest.approx(100 * eer(*corpus.scores(attack=group), "asvspoof"))


def test_rows_of_a_run_are_scores_with_labels_speakers_and_attacks(corpus: Corpus, command: Command) -> None:
    rows = [{**row, "target": int(row["label"] == "bonafide")} for row in corpus.trials]
    Path("test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = measured(command, "test.jsonl")
    assert (
        found["metrics"]
        == measured(command, corpus.write("s", PLAIN), "--key", corpus.write("key", PROTOCOL))["metrics"]
    )


def test_what_a_dash_leaves_open_is_no_speaker_and_in_no_group_of_attacks(corpus: Corpus, command: Command) -> None:
    rows = [
        {**row, "speaker": "-", "codec": row["codec"].replace("none", "-"), "note": row["score"] + 1}
        for row in corpus.trials
    ]
    rows[-1]["attack"] = "-"
    form = "id,speaker,label,attack,codec,score\n{id},{speaker},{label},{attack},{codec},{note}"
    found = measured(command, corpus.write("s", PLAIN), "--key", corpus.write("key", form, rows))
    assert found["metrics"]["eer"]["clusters"] == 48
    assert found["metrics"]["eer"]["value"] == pytest.approx(100 * eer(*corpus.scores(), "asvspoof"))
    sizes = {
        key: {group: metrics["eer"]["n"] for group, metrics in parts["groups"].items()}
        for key, parts in found["breakdowns"].items()
    }
    assert sizes == {"attack": {"A07": 36, "A08": 35}, "codec": {"alaw": 24, "none": 24}}


def test_a_dash_is_shared_in_columns_of_attacks_only(corpus: Corpus, command: Command) -> None:
    """Under other keys it is not known: such trials are in no group, where they would be in all."""
    rows = [
        {
            **row,
            "room": ("-", "x", "y")[number % 3],
            "toolkit": "-" if row["attack"] == "-" else ("-", "p", "q")[number % 3],
        }
        for number, row in enumerate(corpus.trials)
    ]
    key = corpus.write("key", "id,label,attack,room,toolkit\n{id},{label},{attack},{room},{toolkit}", rows)
    parts = measured(command, corpus.write("s", PLAIN), "--key", key, "--by", "room", "--by", "toolkit")["breakdowns"]
    sizes = {
        name: {group: found["eer"]["n"] for group, found in part["groups"].items()} for name, part in parts.items()
    }
    assert sizes == {"room": {"x": 16, "y": 16}, "toolkit": {"p": 24 + 8, "q": 24 + 8}}
    assert any("16 of 48 rows say no room" in note for note in parts["room"]["notes"])


def test_speakers_that_only_some_trials_say_are_noted(corpus: Corpus, command: Command) -> None:
    rows = [{**row, "speaker": "-" if number < 5 else row["speaker"]} for number, row in enumerate(corpus.trials)]
    found = measured(command, corpus.write("s", PLAIN), "--key", corpus.write("key", PROTOCOL, rows))
    assert any("5 of 48 trials say no speaker" in note for note in found["notes"])


def test_groups_of_two_keys_are_those_of_the_challenge_table(corpus: Corpus, command: Command) -> None:
    found = measured(
        command, corpus.write("s", PLAIN), "--key", corpus.write("key", LA_KEY), "--by", "attack,codec", "--by", "codec"
    )
    table = found["breakdowns"]["attack, codec"]["groups"]
    assert set(table) == {f"{attack}, {codec}" for attack in ATTACKS for codec in CODECS}
    assert table["A08, alaw"]["eer"]["value"] == pytest.approx(
        100 * eer(*corpus.scores(attack="A08", codec="alaw"), "asvspoof")
    )
    assert set(found["breakdowns"]) == {"attack, codec", "codec"}


def test_the_tandem_cost_of_2019_has_the_asv_of_each_attack(corpus: Corpus, command: Command) -> None:
    asv = corpus.write("asv.txt", ASV_2019, corpus.asv)
    found = measured(command, corpus.write("s", SCORES_2019), "--asv", asv)
    rates = asv_rates(*corpus.asv_scores())
    for year in (2019, 2021):
        name = f"min_tdcf_{year}"
        assert found["metrics"][name]["value"] == pytest.approx(min_tdcf(*corpus.scores(), rates, year))  # type: ignore[arg-type]
        for attack in ATTACKS:
            value = found["breakdowns"]["attack"]["groups"][attack][name]["value"]
            behind = asv_rates(*corpus.asv_scores(attack))
            assert value == pytest.approx(min_tdcf(*corpus.scores(attack=attack), behind, year))  # type: ignore[arg-type]


def asv_2021(corpus: Corpus) -> tuple[str, str]:
    """The same scores in the form of 2021, of trials with ids of the countermeasure's."""
    rows = [
        {**row, "speaker": f"T{number:04d}", "id": corpus.trials[number % 48]["id"], "label": row["kind"]}
        for number, row in enumerate(corpus.asv)
    ]
    return corpus.write("asv21.txt", "{speaker} {id} {score}", rows), corpus.write("asvkey.txt", LA_KEY, rows)


def test_the_tandem_cost_of_2021_has_the_same_asv_in_another_form(corpus: Corpus, command: Command) -> None:
    scores, asv, asv_key = corpus.write("s", PLAIN), *asv_2021(corpus)
    found = measured(
        command,
        scores,
        "--key",
        corpus.write("key", LA_KEY),
        "--asv",
        asv,
        "--asv-key",
        asv_key,
        "--by",
        "attack,codec",
        "--by",
        "attack",
    )
    old = measured(
        command, scores, "--key", corpus.write("old", PROTOCOL), "--asv", corpus.write("a", ASV_2019, corpus.asv)
    )
    assert found["metrics"]["min_tdcf_2021"]["value"] == old["metrics"]["min_tdcf_2021"]["value"]
    name = "min_tdcf_2021"
    for attack in ATTACKS:
        ours, theirs = (one["breakdowns"]["attack"]["groups"][attack][name]["value"] for one in (found, old))
        assert ours == theirs
    assert name in found["breakdowns"]["attack, codec"]["groups"]["A07, alaw"]


def transmitted(corpus: Corpus, name: str) -> str:
    """The rows of a run on ASVspoof 2021."""
    rows = [
        {**row, "target": int(row["label"] == "bonafide"), "transmission": "ita_tx", "label": None}
        for row in corpus.trials
    ]
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def test_rows_of_a_run_on_2021_take_its_asv_without_a_key(corpus: Corpus, command: Command) -> None:
    asv, asv_key = asv_2021(corpus)
    given = ("--asv", asv, "--asv-key", asv_key)
    keyed = measured(command, corpus.write("s", PLAIN), "--key", corpus.write("key", LA_KEY), *given)
    found = measured(command, transmitted(corpus, "run.jsonl"), *given)
    assert found["metrics"] == keyed["metrics"] and "min_tdcf_2021" in found["metrics"]


def test_only_the_chosen_subset_is_scored(corpus: Corpus, command: Command) -> None:
    rest = [
        {**row, "id": row["id"].replace("E", "X"), "subset": "progress", "score": -row["score"]}
        for row in corpus.trials
    ]
    rows = [{**row, "subset": "eval"} for row in corpus.trials] + rest
    scores = corpus.write("s", PLAIN, rows)
    key = corpus.write("key", LA_KEY.replace("eval", "{subset}"), rows)
    assert measured(command, scores, "--key", key)["metrics"]["eer"]["n"] == 48
    other = measured(command, scores, "--key", key, "--subset", "progress")["metrics"]["eer"]["value"]
    assert other == pytest.approx(100 * eer(*(-part for part in corpus.scores()), "asvspoof"))
    Path("found.json").unlink()
    assert "eval, progress" in refused(command, scores, "--key", key, "--subset", "hidden").err


def test_what_is_printed_holds_all_numbers_and_a_plot_is_drawn(corpus: Corpus, command: Command) -> None:
    answer = command("score", "asv_spoof", corpus.write("s", SCORES_2019), "--plot", "det.svg")
    assert answer.code == 0, answer.err
    assert "pooled: 48 trials" in answer.out
    assert all(word in answer.out for word in ("by attack", "A07", "A08", "cllr", "note: no speaker is known"))
    assert Path("det.svg").read_bytes().startswith(b"<?xml")


def edited(line: int, text: str | None, form: str = PLAIN) -> Callable[[Corpus, str], str]:
    """A file with one line in the place of another, or without it, or (past the end) with it."""

    def write(corpus: Corpus, name: str) -> str:
        lines = Path(corpus.write(name, form)).read_text().splitlines()
        lines[line - 1 : line] = [] if text is None else [text]
        Path(name).write_text("\n".join(lines) + "\n")
        return name

    return write


@pytest.mark.parametrize(
    ("scores", "key", "said"),
    [
        (edited(3, "LA_E_0002 nan"), PROTOCOL, "s:3: the score 'nan' is no finite number"),
        (edited(3, "LA_E_0002 1e999"), PROTOCOL, "s:3: the score '1e999'"),
        (edited(3, "LA_E_0002 high"), PROTOCOL, "s:3: the score 'high'"),
        (edited(3, "LA_E_0001 0.5"), PROTOCOL, "s:3: 'LA_E_0001' is scored twice, first on line 2"),
        (edited(3, "LA_E_0002 0.5 0.5"), PROTOCOL, "s:3: 3 columns where the first line has 2"),
        (edited(3, "LA_E_9999 0.5"), PROTOCOL, "s:3: 'LA_E_9999' is no trial of key (1 of 48 are not)"),
        (edited(3, None), PROTOCOL, "key:3: 1 of 48 trials have no score in s: LA_E_0002"),
        (edited(3, "LA_E_0002 - fake 0.5", SCORES_2019), None, "s:3: the label 'fake' is neither bonafide nor spoof"),
        (edited(3, "LA_E_0002 A07 spoof 0.5", SCORES_2019), PROTOCOL, "s:3: 'LA_E_0002' is spoof here and bonafide in key:3"),
        (edited(1, "filename\tscore"), PROTOCOL, "s:1: the header is `filename cm-score`"),
        (edited(1, "one"), PROTOCOL, "s:1: 1 column; a line is `ID SCORE`"),
        (edited(1, '{"id": "x", "score": 1}'), None, "s:1: the target is None"),
        (edited(1, '{"id": "x"'), None, "s:1: not valid JSON"),
        (edited(1, '{"id": "x", "score": 1, "target": [1]}'), None, "s:1: the target is [1]"),
        (edited(1, '{"id": "x", "score": 1%s, "target": 1.0}' % ("0" * 400)), None, "is no finite number"),
        (edited(1, '{"id": "x", "score": 1, "target": 1, "attack": ["A07"]}'), None, "s:1: what stands under 'attack'"),
        (edited(1, r'{"id": "x", "score": 1, "target": 1, "attack": "\ud800"}'), None, "s:1: what stands under 'attack'"),
        (edited(99, None), None, "s does not say which trials are bona fide; name a key"),
        (edited(99, None), edited(3, "LA_0002 LA_E_0001 - - bonafide", PROTOCOL), "key:3: 'LA_E_0001' is there twice, first on line 2"),
        (edited(99, None), edited(3, "LA_0002 LA_E_0002 - - genuine", PROTOCOL), "key:3: the label 'genuine'"),
        (edited(99, None), edited(3, "LA_E_0002 - - bonafide", PROTOCOL), "key:3: 4 columns where the ASVspoof 2019 protocol has 5"),
        (edited(25, "LA_E_0024 A08 spoof 0.5", SCORES_2019), PROTOCOL, "s:25: 'LA_E_0024' is of the attack A08 here and of A07 in key:25"),
        (edited(99, None), "{id} {label} x", "key:1: 3 columns; a key has 5 columns"),
        (edited(99, None), "file,label\n{id},{label}", "key:1: there is no column `path` or `id`"),
        (edited(99, None), "path,label\n{id},{label},x", "key:2: 3 columns where the header has 2"),
        (edited(99, None), 'path,label\n"{id},{label}', "quote fields that hold commas"),
        (edited(99, None), "path,label\n{id}\r,{label}", "key:2: 1 columns"),
        (edited(99, None), PROTOCOL.replace("{label}", "spoof"), "key: none of the 48 trials is bonafide"),
        (edited(99, None), PROTOCOL.replace("{label}", "bonafide"), "key: none of the 48 trials is spoof"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_named_with_their_line(
    scores: Any, key: Any, said: str, corpus: Corpus, command: Command
) -> None:
    options = []
    if key is not None:
        options = ["--key", key(corpus, "key") if callable(key) else corpus.write("key", key)]
    assert said in refused(command, scores(corpus, "s"), *options).err


def test_asv_scores_of_another_corpus_are_refused(corpus: Corpus, command: Command) -> None:
    scores, plain = corpus.write("s", SCORES_2019), corpus.write("p", PLAIN)
    la, df, five = (corpus.write(name, form) for name, form in (("la", LA_KEY), ("df", DF_KEY), ("five", KEY_5)))
    old, (new, new_key) = corpus.write("asv.txt", ASV_2019, corpus.asv), asv_2021(corpus)
    dev = corpus.write(
        "dev.txt", ASV_2019, [{**row, "attack": row["attack"].replace("A0", "B0")} for row in corpus.asv]
    )
    part = corpus.write("part.txt", ASV_2019, [row for row in corpus.asv if row["attack"] != "A08"])
    targets = corpus.write("targets.txt", ASV_2019, [row for row in corpus.asv if row["kind"] == "target"])
    others = [{**row, "speaker": "T", "id": f"X{k}", "label": row["kind"]} for k, row in enumerate(corpus.asv)]
    run = transmitted(corpus, "run.jsonl")
    table = corpus.write("table", "id,label,attack,transmission\n{id},{label},{attack},ita_tx")
    strange = corpus.write("x", "{speaker} {id} {score}", others), corpus.write("xkey", LA_KEY, others)
    for arguments, said in (
        (
            (scores, "--asv", dev),
            "dev.txt:101: the attack B07 does not occur in the trials of the countermeasure (A07, A08)",
        ),
        ((scores, "--asv", part), "part.txt has no spoof of A08"),
        ((scores, "--asv", targets), "targets.txt has no nontarget trial"),
        ((plain, "--key", la, "--asv", old), "asv.txt:1: ASV scores in the form of ASVspoof 2019"),
        ((scores, "--asv", new, "--asv-key", new_key), "are of another corpus than scores of ASVspoof 2019"),
        ((plain, "--key", la, "--asv", new), "need the key of their trials, --asv-key FILE"),
        ((plain, "--key", la, "--asv", strange[0], "--asv-key", strange[1]), "no spoof of the ASV's"),
        ((plain, "--key", la, "--asv", new, "--asv-key", strange[1]), "has no score in asv21.txt"),
        ((plain, "--key", df, "--asv", old), "has no t-DCF"),
        ((plain, "--key", five, "--asv", old), "has no t-DCF"),
        ((run, "--asv", old), "asv.txt:1: ASV scores in the form of ASVspoof 2019"),
        ((plain, "--key", table, "--asv", old), "asv.txt:1: ASV scores in the form of ASVspoof 2019"),
        ((scores, "--asv", scores), "s:1: 4 columns"),
        ((scores, "--asv-key", new_key), "give these too"),
    ):
        assert said in refused(command, *arguments).err, arguments


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("score", "asv_spoof", "nowhere"), 3, "nowhere cannot be read"),
        (("score", "speaker", "s"), 2, "names no `scorer`"),
        (("score", "--key", "k"), 2, "the task comes first"),
        (("score", "asv_spof", "s"), 2, "asv_spoof"),
        (("score", "asv_spoof", "s", "--by", "a,b,c"), 2, "one key, or two"),
        (("score", "asv_spoof", "s", "--by", "gender"), 3, "No row says its gender"),
        (("score", "asv_spoof", "s", "--plot", "det.pdf"), 2, ".svg or .png"),
        (("score", "asv_spoof", "s", "--seed", "-1"), 2, "--seed -1: a seed is"),
        (("score", "asv_spoof", "s", "--subset", "eval"), 2, "only keys of ASVspoof 2021"),
    ],
)
def test_wrong_use_is_explained(
    arguments: tuple[str, ...], code: int, said: str, corpus: Corpus, command: Command
) -> None:
    corpus.write("s", SCORES_2019)
    answer = command(*arguments)
    assert (answer.code, said in answer.err) == (code, True), answer


def test_a_plugin_offers_a_scorer_of_its_own(corpus: Corpus, command: Command, fresh_registry: None) -> None:
    Path("mine").mkdir()
    Path("mine/card.yaml").write_text("mine: {expert: Mine, summary: a task, scorer: Scores}\n")
    Path("mine/expert.py").write_text("class Mine: ...\n")
    Path("mine/scoring.py").write_text(
        "from headwater.metrics import Mean\n"
        "from headwater.metrics.sheet import ScoreSheet\n"
        "class Scores:\n"
        "    def add_arguments(parser): parser.add_argument('--times', type=int)\n"
        "    def read(args):\n"
        "        rows = [{'id': str(k), 'half': 'ab'[k % 2], 'loss': k * args.times} for k in range(10)]\n"
        "        return ScoreSheet(rows, (Mean('loss', 'loss', '', False),), ('half',))\n"
    )
    answer = command("score", "mine", "unread", "--times", 2, "--plugin", "mine")
    assert answer.code == 0, answer.err
    assert "loss             9.0000" in answer.out
    assert "by half" in answer.out


def test_the_real_scores_of_2019_give_the_published_values(shared: Path, corpus: Corpus, command: Command) -> None:
    folder = shared / "parity" / "spoof_metrics"
    held, reference = arrays(folder), expected(folder)
    lines = [f"b{k} - bonafide {score!r}" for k, score in enumerate(held["real_la_dev/bonafide"].tolist())]
    attacks = zip(held["real_la_dev/spoof"].tolist(), held["real_la_dev/attack"].tolist(), strict=True)
    lines += [f"s{k} {attack} spoof {score!r}" for k, (score, attack) in enumerate(attacks)]
    Path("cm.txt").write_text("\n".join(lines))
    asv = [
        f"bonafide {kind} {score!r}"
        for kind in ("target", "nontarget")
        for score in held[f"asv_real_la_dev/{kind}"].tolist()
    ]
    spoofs = zip(held["asv_real_la_dev/spoof"].tolist(), held["asv_real_la_dev/attack"].tolist(), strict=True)
    Path("asv.txt").write_text("\n".join([*asv, *(f"{attack} spoof {score!r}" for score, attack in spoofs)]))
    found = measured(command, "cm.txt", "--asv", "asv.txt")
    pooled, two = reference["tandem"]["real_la_dev | asv_real_la_dev"], reference["two_class"]["real_la_dev"]
    for name, value in (
        ("eer", 100 * two["asvspoof.eer"]),
        ("min_dcf", two["asvspoof5.min_dcf"]),
        ("act_dcf", two["asvspoof5.act_dcf"]),
        ("cllr", two["asvspoof5.cllr"]),
        ("min_tdcf_2019", pooled["tdcf2019.min"]),
        ("min_tdcf_2021", pooled["tdcf2021.min"]),
    ):
        assert found["metrics"][name]["value"] == pytest.approx(value, abs=1e-9), name
    for case, values in reference["per_attack"].items():
        metrics = found["breakdowns"]["attack"]["groups"][case.split(" | ")[1]]
        for year in (2019, 2021):
            value = values[f"with_asv_spoof_of_same_attack.tdcf{year}.min"]
            assert metrics[f"min_tdcf_{year}"]["value"] == pytest.approx(value, abs=1e-9), case


def test_decisions_in_the_place_of_scores_have_no_tandem_cost(corpus: Corpus, command: Command) -> None:
    decided = [{**row, "score": int(row["label"] == "bonafide")} for row in corpus.trials]
    scores, asv = corpus.write("s", SCORES_2019, decided), corpus.write("asv", ASV_2019, corpus.asv)
    assert "min_tdcf_2019" not in measured(command, scores)["metrics"]
    Path("found.json").unlink()
    assert "scores, not decisions" in refused(command, scores, "--asv", asv).err
