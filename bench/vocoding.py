"""What representations still know of the sound: the probing table on real speech, unseen speakers, beside what copy-synthesis reaches without training.

    python bench/vocoding.py ../shared/data --out /tmp/vocoding [--steps 600] [--models tera.demo] [--systems mel mfcc] [--plots DIR] [--only-table]

Every upstream gets the same vocoder, steps and pieces. The rows are means over test utterances with 95 % intervals over speakers; below them the paired
differences to mel, measure by measure. Runs that are finished are not run again, so several of these may share the work: `--part 0/2`, `--part 1/2`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.tables import arguments, asked, finished, made, mine

from headwater.errors import DataError
from headwater.metrics import measure_from_json, paired_difference
from headwater.results.files import write_bytes
from headwater.results.plots import interval_plot
from headwater.results.table import load_metrics, load_result, read_scores

LIST = Path("lists") / "librispeech_phone_unseen.csv"
FEATURES = ("mel", "fbank", "mfcc")
COPIES = ("world", "griffin-lim", "mel-bound")
REFERENCE = "mel"


def systems(models: Iterable[str]) -> dict[str, list[str]]:
    """Name -> what stands on the command line."""
    probes = {name: ["-u", name, "-d", "vocoder"] for name in (*FEATURES, *models)}
    return {**probes, **{f"copy: {name}": ["-d", "vocoder_copy", "-v", name] for name in COPIES}}


def place(out: Path, system: str) -> Path:
    return out / system.replace(": ", "-")


def report(out: Path, names: Sequence[str], plots: Path | None) -> None:
    """A block for each measure: all systems, then the differences to mel; a picture of each in the folder `plots`."""
    found = {name: load_metrics(place(out, name), "test") for name in names if finished(place(out, name))}
    if not found:
        return
    width = max(map(len, found))
    for name in found:
        result = load_result(place(out, name))
        print(
            f"{name:<{width}}  {result['steps']} steps, {result['audio_s']:g} s of audio, {result['parameters']} parameters, "
            f"trained in {result['timing']['train_s']:.0f} s"
        )
    rows = {name: read_scores(place(out, name), "test") for name in found}
    for measure in dict.fromkeys(measure for metrics in found.values() for measure in metrics):
        held = {name: metrics[measure] for name, metrics in found.items() if measure in metrics}
        one = next(iter(held.values()))
        if plots is not None:
            write_bytes(plots / f"vocoding_{measure}.svg", interval_plot(list(held.items()), name=measure))
        print(
            f"\n{measure} {f'({one.unit}) ' if one.unit else ''}{'higher' if one.higher_is_better else 'lower'} is better"
        )
        for name, metric in held.items():
            print(f"  {name:<{width}}  {metric.brief()}  n {metric.n}")
        declared = measure_from_json(one.measure or {})
        for name in held:
            if name == REFERENCE or REFERENCE not in held:
                continue
            try:
                difference = paired_difference(declared, rows[name], rows[REFERENCE])
            except DataError as error:
                print(f"  {name} - {REFERENCE}: {error}")
            else:
                print(f"  {name} - {REFERENCE}: {difference.brief()}")


def main() -> int:
    parser = arguments(__doc__, ("tera.demo", "mockingjay.demo", "audio_albert.demo"))
    parser.add_argument("--list", type=Path, help=f"CSV with splits (default: DATA/{LIST})")
    parser.add_argument("--plots", type=Path, help="a folder for a picture of each measure")
    parser.add_argument("--steps", type=int, help="of training; the task's own number when not given")
    parser.add_argument("--limit", type=int, help="utterances of each split, for trying out")
    args = parser.parse_args()
    rows = asked(systems(args.models), parser, args)
    steps = [] if args.steps is None else ["-o", f"runner.total_steps={args.steps}"]
    limit = [] if args.limit is None else ["-o", f"data.limit={args.limit}"]
    data = ["--data", str(args.list or args.data / LIST)]
    for system, line in mine(rows, args):
        if not made(place(args.out, system), [*line, *data, *steps, *limit]):
            return 1
    report(args.out, list(rows), args.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
