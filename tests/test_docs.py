"""The documentation is true: its commands and its Python run, its outputs are what is printed, its tables are complete, its links lead somewhere."""

from __future__ import annotations

import glob
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from headwater.cli.main import main as headwater_main
from headwater.cli.pretrain import main as pretrain_main
from headwater.cli.pretrain import parser as pretrain_parser
from headwater.cli.pretrain import settings_of as pretrain_settings_of
from headwater.cli.run import main as run_main
from headwater.cli.run_settings import parser, settings_of
from headwater.cli.shell import guarded
from headwater.config import PretrainConfig, RunConfig
from headwater.preprocess import commands as preprocess_commands
from headwater.registry import downstreams, objectives, registries, upstreams
from headwater.settings import read_recipe, validate

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(str(file.relative_to(ROOT)) for file in (ROOT / "docs").rglob("*.md")),
]
SKETCHES = {"docs/design.md"}  # its code shows signatures, with `...` where a reader's own values stand
# Appended to training commands: few steps are enough to see that they run. Outputs are compared without their numbers.
QUICK = ["-o", "runner.total_steps=20,,runner.eval_step=20"]
QUICK_PRETRAINING = ["-o", "runner.total_steps=4,,runner.eval_step=4,,batch.size=8,,min_seconds=0"]
TINY = [
    *("-o", "model.transformer.hidden_size=16,,model.transformer.num_attention_heads=2"),
    *("-o", "model.transformer.num_hidden_layers=1,,model.transformer.intermediate_size=32"),
]
# Where the whole demo, and not training, is what takes long: a transformer or WORLD for every utterance of it. By a word of the command.
FEW = ["--limit", "24"]
SMALLER = {
    "tera": FEW,
    "hf:my_hubert": FEW,
    "separation": ["-o", "task.mixtures=4,,task.superb.hidden=16,,batch.size=2"],
    "vocoder": ["-o", "data.limit=1,,batch.size=1"],
}
PREPROCESS = {
    f"preprocess/{file.name}": getattr(preprocess_commands, file.stem) for file in (ROOT / "preprocess").glob("*.py")
}
PIXEL = b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"`([\w./-]+\.(?:py|yaml|csv))`:\n\n?$")  # the line before a block that is a file to write


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `file` is the name that the line before it gives."""

    page: str
    line: int
    language: str
    text: str
    file: str | None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        named = FILE_NAME.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, match[1], match[2], named[1] if named else None))
    return found


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """(command, the lines it is said to print) of a block; in a console block commands start with `$ `."""
    if block.language == "bash":
        return [(line, []) for line in block.text.replace("\\\n", " ").splitlines() if line.strip()]
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def masked(line: str) -> str:
    """A line without what differs from run to run: numbers, hashes, the cache's place, alignment."""
    line = re.sub(r"\S*/demo/1-\w+", "CACHE", line)
    line = re.sub(r"\S*/features \(at most \S+ \S+\)", "STORE", line)
    line = re.sub(r"-[0-9a-f]{8}/", "-HASH/", line)
    return re.sub(r"\s+", " ", re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "0", line)).strip()


def makefile_recipe(target: str) -> str:
    """The command of a target, as `make` prints it."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(target)}:.*\n\t(.*)$", text, re.MULTILINE)
    assert found, f"the Makefile has no target {target!r}"
    return found[1].replace("$(PY)", ".venv/bin/python")


def shortened(main: Callable[..., int], words: list[str]) -> list[str]:
    """What makes a training command short. A run that goes on has its settings already, and an objective of a reader's has others."""
    if main is pretrain_main:
        name = pretrain_parser().parse_args(words).upstream
        masked = not {"-e", "--plugin"} & set(words) and "transformer" in objectives[name].config["model"]
        return QUICK_PRETRAINING + TINY * masked
    training = main is run_main and not {"evaluate", "predict", "inference"} & set(words) and "--dry-run" not in words
    smaller = [word for name in SMALLER if name in words for word in SMALLER[name]]
    return QUICK + smaller if training else FEW if words[0] == "units" and "tera" in words else []


@pytest.fixture()
def shell(
    tmp_path: Path, demo_cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[[str, bool], tuple[int, str]]]:
    """Runs a command of the documentation in this process, as from a clone's top, and gives its exit code and all it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADWATER_CACHE", str(demo_cache))
    # What a page prints of its first run is true where nothing was computed before.
    monkeypatch.setenv("HEADWATER_STORE", str(tmp_path / ".cache" / "features"))
    for name in ("hubconf.py", "config", "upstream", "downstream", "headwater"):
        (tmp_path / name).symlink_to(ROOT / name)
    kept = {kind: (dict(registry.cards), dict(registry._aliases)) for kind, registry in registries.items()}

    def forget_plugins() -> None:
        for kind, registry in registries.items():
            registry._cards, registry._aliases = dict(kept[kind][0]), dict(kept[kind][1])

    def run(command: str, quick: bool) -> tuple[int, str]:
        words = [
            part
            for word in shlex.split(command)
            for part in (sorted(glob.glob(word)) if "*" in word else None) or [word]
        ]
        if words[0] == "python" and words[1] == "-m":
            words = words[2:]
        scripts = {"run_downstream.py": run_main, "run_pretrain.py": pretrain_main, **PREPROCESS}
        main = headwater_main if words[0] == "headwater" else scripts[words[1]]
        words = words[1:] if words[0] == "headwater" else words[2:]
        forget_plugins()
        capfd.readouterr()
        try:
            with monkeypatch.context() as patch:
                if quick:  # drawing takes longer than twenty steps, and has tests of its own
                    for plot in ("confusion_plot", "signals_plot"):
                        patch.setattr(f"headwater.results.plots.{plot}", lambda *arguments, **settings: PIXEL)
                code = guarded(main, [*words, *(shortened(main, words) if quick else [])])
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capfd.readouterr()
        return code, said.out + said.err

    yield run
    forget_plugins()


@pytest.fixture()
def user_data(tmp_path: Path, demo_cache: Path) -> None:
    """What the pages say a user has: speech of the demo in every layout, with labels, lists and trials."""
    demo = next((demo_cache / "demo").glob("1-*"))
    labels = dict(line.split(" ", 1) for line in (demo / "phones.txt").read_text().splitlines())
    names = (demo / "phone_classes.txt").read_text().split()[1::2]

    def link(source: Path, target: str) -> None:
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / target).symlink_to(source)

    def write(target: str, lines: list[str]) -> None:
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / target).write_text("".join(f"{line}\n" for line in lines))

    by_speaker: dict[int, list[str]] = {}
    phones, scp, utt2spk, iden, ids = [], [], [], [], []
    for speaker in range(1, 5):
        for number in range(1, 7):
            name, chapter = f"s{speaker:02d}-{number:02d}", 10 * speaker + (number + 1) // 2
            source = demo / "wav" / f"s{speaker:02d}" / f"{name}.wav"
            libri = f"{speaker}-{chapter}-{number:04d}"
            link(source, f"LibriSpeech/train-clean-100/{speaker}/{chapter}/{libri}.wav")
            video = f"id1000{speaker}/video{chapter}/{number:05d}"
            link(source, f"VoxCeleb1/wav/{video}.wav")
            link(source, f"kaldi/audio/{name}.wav")
            link(source, f"my_speakers/speaker{speaker}/{number}.wav")
            classes = labels[name].split()
            phones.append(f"{libri} {' '.join(classes)}")
            steps = [f"{0.01 * k:.2f} {0.01 * (k + 1):.2f} {names[int(c)]}" for k, c in enumerate(classes)]
            write(f"alignments/{libri}.lab", steps)
            scp.append(f"{name} kaldi/audio/{name}.wav")
            utt2spk.append(f"{name} s{speaker:02d}")
            iden.append(f"{(1, 1, 1, 2, 3, 3)[number - 1]} {video}.wav")
            ids.append((libri, f"speaker{speaker}/{number}"))
            by_speaker.setdefault(speaker, []).append(libri)
    libri = sorted((tmp_path / "LibriSpeech" / "train-clean-100").rglob("*.wav"))
    rows = [f"{file.relative_to(tmp_path)}\t{file.parts[-3]}\ttrain-clean-100" for file in libri]
    write("pretrain.tsv", ["path\tspeaker\tsubset", *rows])
    write("phones.txt", phones)
    shutil.copy(demo / "phone_classes.txt", tmp_path)
    write("kaldi/data/train/wav.scp", scp)
    write("kaldi/data/train/utt2spk", utt2spk)
    write("VoxCeleb1/iden_split.txt", iden)
    write("train_split.txt", [one for one, _ in ids[:18]])
    write("test_split.txt", [one for one, _ in ids[18:]])
    for split, part in (("train", (1, 2, 3)), ("dev", (4,)), ("test", (5, 6))):
        write(f"{split}.txt", [two for _, two in ids if int(two.rsplit("/")[-1]) in part])
    for fold, tested in enumerate(((1, 2), (3, 4))):
        write(
            f"fold{fold}_train.txt",
            [one for speaker in by_speaker if speaker not in tested for one in by_speaker[speaker]],
        )
        write(f"fold{fold}_test.txt", [one for speaker in tested for one in by_speaker[speaker]])
    trials = [(a, b) for a in (1, 2) for b in (1, 2, 3, 4)]
    write("trials.txt", [f"{int(a == b)} {by_speaker[a][0]} {by_speaker[b][1]}" for a, b in trials])
    some = demo / "wav" / "s01" / "s01-01.wav"
    for name in ("recording.wav", "recordings/anna.wav", "recordings/ben.wav"):
        link(some, name)


def make_audio_of(table: Path, demo_cache: Path) -> None:
    """The audio that a table of the documentation lists: the demo's, a speaker for each speaker."""
    demo = next((demo_cache / "demo").glob("1-*"))
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    speakers = sorted({row[1] for row in rows})
    for number, row in enumerate(rows):
        file = table.parent / row[0]
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.symlink_to(
                demo
                / "wav"
                / f"s{1 + speakers.index(row[1]):02d}"
                / f"s{1 + speakers.index(row[1]):02d}-{1 + number % 8:02d}.wav"
            )


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_runs_from_top_to_bottom_and_prints_what_it_says(
    page: str, shell: Callable[[str, bool], tuple[int, str]], user_data: None, tmp_path: Path, demo_cache: Path
) -> None:
    names: dict[str, Any] = {"__name__": "__docs__"}
    for block in blocks(page):
        if block.file is not None:
            file = tmp_path / block.file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
            if file.suffix == ".csv":
                make_audio_of(file, demo_cache)
        elif block.language == "python" and page not in SKETCHES:
            exec(compile(block.text, block.place, "exec"), names)
        elif block.language in ("bash", "console"):
            for command, expected in commands(block):
                follow(command, expected, block.place, shell)


def follow(command: str, expected: list[str], place: str, shell: Callable[[str, bool], tuple[int, str]]) -> None:
    """Run one command and compare what it prints with what the page says. Outputs name no step, so a short training prints them, too."""
    quick = True
    if command.startswith("make "):
        target = command.split()[-1]
        recipe = makefile_recipe(target)
        if not expected:
            return  # its target exists; the tests would start themselves
        assert expected[0] == recipe, place
        command, expected, quick = recipe.replace(".venv/bin/python", "python"), expected[1:], False
    if command.startswith("torchrun "):
        # The start of other processes is tested with the loop; here, that what they are asked to do is right.
        words = shlex.split(command)
        if "run_pretrain.py" in words:
            asked = pretrain_parser().parse_args(words[words.index("run_pretrain.py") + 1 :])
            validate(PretrainConfig, pretrain_settings_of(asked)[0])
            return
        validate(
            RunConfig, settings_of(parser().parse_intermixed_args(words[words.index("run_downstream.py") + 1 :]))[0]
        )
        return
    code, said = shell(command, quick)
    if not quick:
        assert accuracy(said) == pytest.approx(accuracy("\n".join(expected)), abs=10), place
    fails = any(line.startswith("error:") for line in expected)
    assert (code != 0) == fails, f"{place}: `{command}` ended with {code}\n{said}"
    printed = iter([masked(line) for line in said.splitlines()])
    for line in filter(str.strip, expected):
        assert masked(line) in printed, f"{place}: `{command}` does not print (in this order)\n  {line}\nbut\n{said}"


def accuracy(said: str) -> float:
    """The accuracy on test, which `masked` hides. Synthesis differs a little from platform to platform."""
    found = re.search(r"^test +accuracy ([\d.]+) %", said, re.MULTILINE)
    assert found, said
    return float(found[1])


def all_text() -> str:
    return "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)


def in_code(text: str) -> set[str]:
    """What stands in backticks, also of a list such as `a`, `b`."""
    return set(re.findall(r"`([^`\n]+)`", text))


@pytest.mark.parametrize("flag", sorted({flag for action in parser()._actions for flag in action.option_strings}))
def test_every_flag_is_in_the_documentation(flag: str) -> None:
    assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", all_text())


@pytest.mark.parametrize(("title", "registry"), [("Upstreams", upstreams), ("Tasks", downstreams)])
def test_the_readme_lists_what_is_registered_a_family_in_a_row_or_more(title: str, registry: Any) -> None:
    """Nothing that is not there, and every name: those of single recipes stand with S3PRL's names in docs/from_s3prl.md."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split(f"\n## {title}\n")[1]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().split("\n\n")[0].splitlines()[2:]
    ]
    cards = {card.name: card for card in registry if card.plugin is None}
    listed = {next(iter(in_code(row[0]))): in_code(row[1]) for row in rows}
    for name, others in listed.items():
        assert {registry[other].folder for other in others} <= {cards[name].folder}, name
    said = in_code((ROOT / "docs" / "from_s3prl.md").read_text(encoding="utf-8")).union(listed, *listed.values())
    assert {card.folder for card in cards.values()} == {cards[name].folder for name in listed}
    assert {name for card in cards.values() for name in (card.name, *card.aliases)} <= said


def keys(content: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Dotted keys of a result, names of splits and measures replaced by SPLIT and METRIC."""
    for key, value in content.items():
        if path in (("metrics",), ("data", "splits")):
            key = "SPLIT"
        elif path == ("metrics", "SPLIT"):
            key = "METRIC"
        here = (*path, key)
        whole = here[-1] == "measure" or here in (("versions",), ("upstream", "settings"))
        if isinstance(value, dict) and not whole:
            yield from keys(value, here)
        else:
            yield ".".join(here)


def test_every_key_of_a_result_is_explained(shell: Callable[[str, bool], tuple[int, str]]) -> None:
    explained = in_code((ROOT / "docs" / "results.md").read_text())
    for task in ("speaker", "speaker_verification", "phone"):
        code, said = shell(f"python run_downstream.py -u mfcc -d {task} -p {task}", True)
        assert code == 0, said
        result = json.loads((Path(task) / "result.json").read_text())
        assert not sorted(set(keys(result)) - explained), task
        rows = [json.loads(line) for line in (Path(task) / "scores" / "test.jsonl").read_text().splitlines()]
        assert not sorted({key for row in rows for key in row} - explained), task
        assert not sorted({key for point in result["history"] for key in point} - explained), task
        files = {
            f"{child.name}/" if child.is_dir() else re.sub(r"^events.*", "events*", child.name)
            for child in Path(task).iterdir()
        }
        assert not sorted({name.replace("scores/", "scores/SPLIT.jsonl") for name in files} - explained), task


@pytest.mark.parametrize(
    "recipe", sorted(file.relative_to(ROOT) for file in (ROOT / "config" / "downstream").rglob("*.yaml")), ids=str
)
def test_a_recipe_is_valid_and_documented(recipe: Path) -> None:
    about = ROOT / "docs" / "tasks" / f"{recipe.parent.name}.md"
    assert recipe.stem in in_code((about if about.is_file() else ROOT / "README.md").read_text())
    tasks = [card for card in downstreams if card.folder.name == recipe.parent.name]
    brings = "name" in read_recipe(ROOT / recipe).get("upstream", {})
    upstream = [] if brings else ["-u", "fbank"]
    fitting = 0
    for card in tasks:
        config = validate(
            RunConfig, settings_of(parser().parse_args([*upstream, "-d", card.name, "-v", recipe.stem]))[0]
        )
        expert = card.load()
        fitting += set(config.task) <= set(expert.Config.model_fields)
    assert fitting


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page} links to {target}"


def test_the_pages_are_found_from_the_readme() -> None:
    linked = set(
        re.findall(r"\]\((docs/[\w/]+\.md)", (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text())
    )
    assert linked == {page for page in PAGES if page.startswith("docs/")}
