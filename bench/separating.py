"""Separation of real speech: oracles, Conv-TasNet with mixtures drawn anew, and SUPERB's head on features and pretrained models, on unseen speakers.

    python bench/separating.py ../shared/data --out /tmp/separating [--systems psm stft_mag] [--steps 4000] [--seeds 1] [--plots DIR] [--only-table]

Dev and test are those of `lists/librispeech_mix2.csv`. Its train has 16 speakers, so training draws its mixtures from the voices of `pretrain/pretrain.tsv`
(train-clean-100, 233 speakers), none of which is in dev or test; `--list` trains on the list's own. Intervals are over both speakers of a mixture.
Runs that are finished are not run again, so several of these may share the work: `--part 0/2`, `--part 1/2`. `--steps 20` tries everything out.
"""

from __future__ import annotations

import csv
import io
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.tables import arguments, asked, finished, made, mine, spread

from headwater.metrics import Mean, evaluate, paired_difference
from headwater.metrics.rows import Row, Table
from headwater.results.files import write_bytes
from headwater.results.plots import interval_plot
from headwater.results.table import load_result, read_scores

LIST = "lists/librispeech_mix2.csv"
VOICES, SUBSET = "pretrain/pretrain.tsv", "train-clean-100"
MODELS = (
    "tera.demo", "mockingjay.demo", "audio_albert.demo", "hubert.demo", "wav2vec2.demo", "cpc.demo", "apc.demo", "npc.demo",
)  # fmt: skip
ORACLES = ("ibm", "irm", "wfm", "psm")
SI_SDRI = Mean("si_sdri", "si_sdri", "dB", higher_is_better=True, chance=0.0)
# Windows of 4 ms in place of 2: half the frames, so twice the steps in the time of two cores.
NET = "task.net.L=64,,task.net.N=256,,runner.precision=bf16"
# Of SUPERB's head: its second version's sizes, which two cores can train; mixtures and pieces that are drawn anew.
HEAD = (
    "task.superb.hidden=256,,task.superb.layers=2,,task.superb.dropout=0.3,,optimizer.lr=1e-3,,"
    "task.segments=random,,task.segment_seconds=3,,task.dynamic=true"
)


def systems(models: Iterable[str]) -> dict[str, list[str]]:
    """Name -> what stands on the command line."""
    found = {oracle: ["-d", "separation_oracle", "-v", oracle] for oracle in ORACLES}
    found["convtasnet"] = ["-u", "waveform", "-d", "separation_convtasnet", "-o", NET]
    for upstream in ("stft_mag", "fbank", *models):
        found[upstream] = ["-u", upstream, "-d", "separation", "-o", HEAD]
    return found


def mixtures(data: Path, out: Path) -> Path:
    """OUT/mixtures.csv: dev and test of the list, and all voices of the other table in pairs, whose sources training draws from."""
    with open(data / LIST, encoding="utf-8", newline="") as lines:
        held = [row for row in csv.DictReader(lines) if row["split"] != "train"]
    with open(data / VOICES, encoding="utf-8", newline="") as lines:
        voices = [row for row in csv.DictReader(lines, delimiter="\t") if row["subset"] == SUBSET]
    random.Random(0).shuffle(voices)
    folder = Path(VOICES).parent
    drawn = [
        {
            "mix_id": f"drawn{number:04d}",
            "split": "train",
            **{f"path{place}": f"{folder}/{voice['path']}" for place, voice in enumerate(pair, start=1)},
            **{f"speaker{place}": voice["speaker"] for place, voice in enumerate(pair, start=1)},
            "genders": "".join(voice["gender"] for voice in pair),
        }
        for number, pair in enumerate(zip(voices[::2], voices[1::2], strict=False))
    ]
    text = io.StringIO()
    columns = ("mix_id", "split", "path1", "path2", "speaker1", "speaker2", "genders", "gain1", "gain2")
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows([*held, *drawn])
    file = out / "mixtures.csv"
    write_bytes(file, text.getvalue().encode())
    return file


def place(out: Path, system: str, seed: int) -> Path:
    return out / system.replace(" ", "-") / str(seed)


def scored(out: Path, system: str, seeds: Iterable[int]) -> list[dict[str, Any]] | None:
    """Rows of test, SI-SDRi the mean over seeds; None where a run is missing."""
    folders = [place(out, system, seed) for seed in seeds]
    if not all(map(finished, folders)):
        return None
    runs: list[dict[str, Row]] = [{row["id"]: row for row in read_scores(folder, "test")} for folder in folders]
    return [{**row, "si_sdri": sum(one[name]["si_sdri"] for one in runs) / len(runs)} for name, row in runs[0].items()]


def report(out: Path, names: Iterable[str], seeds: list[int], plots: Path | None) -> None:
    """SI-SDRi of each system, its spread over seeds and its course on dev; and what is gained over the first feature."""
    held = {name: rows for name in names if (rows := scored(out, name, seeds)) is not None}
    if not held:
        return
    width = max(map(len, held))
    reached = {name: evaluate([SI_SDRI], rows)["si_sdri"] for name, rows in held.items()}
    if plots is not None:
        write_bytes(plots / "separating_si_sdri.svg", interval_plot(list(reached.items()), name="SI-SDRi"))
    print(f"SI-SDRi in dB on unseen speakers, mean over {len(seeds)} seed(s), 95 % interval over speakers")
    for name, metric in reached.items():
        each = [SI_SDRI.value(Table(scored(out, name, [seed]) or [])) for seed in seeds]
        print(f"  {name:<{width}}  {metric.brief()}{spread(each)}")
    for name, rows in held.items():
        if name not in ("stft_mag", *ORACLES) and "stft_mag" in held:
            print(f"  {name} - stft_mag: {paired_difference(SI_SDRI, rows, held['stft_mag']).brief()}")
    histories = {name: load_result(place(out, name, seeds[0]))["history"] for name in held if name not in ORACLES}
    print("\nSI-SDRi on dev by step, and the loss of training over its last tenth")
    for name, history in histories.items():
        losses = [entry["loss"] for entry in history if "loss" in entry]
        last = losses[-max(1, len(losses) // 10) :]
        course = "  ".join(point(entry) for entry in history if "dev" in entry)
        print(f"  {name:<{width}}  {course}  loss {sum(last) / len(last):.2f}")


def point(entry: dict[str, Any]) -> str:
    return f"{entry['step']}: {entry['dev']['si_sdri']:.2f}"


def main() -> int:
    parser = arguments(__doc__, MODELS)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--list", action="store_true", help="train on the list's own mixtures, of 16 speakers")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--plots", type=Path, help="a folder for a picture of the table")
    args = parser.parse_args()
    rows = asked(systems(args.models), parser, args)
    seeds, every = list(range(1337, 1337 + args.seeds)), max(1, args.steps // 10)
    steps = (
        f"runner.total_steps={args.steps},,runner.eval_step={every},,runner.save_step={every},,batch.size=8,,"
        f"scheduler.name=linear,,data.root={args.data}"
    )
    source = args.data / LIST if args.list or args.only_table else mixtures(args.data, args.out)
    for system, line in mine(rows, args):
        for seed in seeds:
            words = [*line, "--data", str(source), "--seed", str(seed), "-o", steps]
            if not made(place(args.out, system, seed), words):
                return 1
    report(args.out, list(rows), seeds, args.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
