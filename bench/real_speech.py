"""Every baseline on real speech: speakers, phones and trials, from the lists of a data folder, with a second run to compare bit for bit.

    python bench/real_speech.py ../shared/data --out /tmp/real_speech [--upstreams fbank mel] [--once]

Prints a table for each task, as `headwater table` does. Finished runs are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from headwater.cli.run import main as run
from headwater.cli.shell import guarded
from headwater.registry import upstreams
from headwater.results.table import table

FOLDS = [f"librispeech_phone_fold{fold}" for fold in range(4)]


def jobs(data: Path) -> dict[str, list[str]]:
    """Name -> what stands behind `run_downstream.py -u UPSTREAM`."""
    lists = data / "lists"
    labels = f"data.labels={data / 'phones_librispeech' / 'aligned_phones_10ms.txt'}"
    speaker = {
        name: ["-d", "speaker", "--data", f"{lists / file}.csv"]
        for name, file in (
            ("speaker_large", "librispeech_speaker_id_large"),
            ("speaker_small", "librispeech_speaker_id"),
        )
    }
    phone = {
        name: ["-d", "phone", "--data", f"{lists / file}.csv", "-o", labels]
        for name, file in [
            ("phone_unseen", "librispeech_phone_unseen"),
            *((f"phone_fold{i}", fold) for i, fold in enumerate(FOLDS)),
        ]
    }
    trials = {
        name: ["-d", "speaker_verification", "--data", f"{lists / corpus}.csv", "-o", f"data.trials={lists / file}.txt"]
        for name, corpus, file in (
            ("trials_crosschapter", "librispeech_speaker_id", "librispeech_trials_crosschapter"),
            ("trials_large", "librispeech_speaker_id_large", "librispeech_trials_large"),
        )
    }
    return {**speaker, **trials, **phone}


def bits(folder: Path) -> list[bytes]:
    """What must not differ between two runs of one command."""
    result = json.loads((folder / "result.json").read_text())
    numbers = json.dumps([result["metrics"], result["history"]], sort_keys=True).encode()
    return [
        numbers,
        (folder / "model.safetensors").read_bytes(),
        *(file.read_bytes() for file in sorted((folder / "scores").glob("*"))),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--upstreams", nargs="*", default=[card.name for card in upstreams if card.name != "waveform"])
    parser.add_argument("--once", action="store_true", help="no second run")
    args = parser.parse_args()
    all_jobs = jobs(args.data)
    differing, compared = [], 0
    for job, line in all_jobs.items():
        for name in args.upstreams:
            first, second = args.out / job / name, args.out / "again" / job / name
            if guarded(run, ["-u", name, *line, "-p", str(first)]):
                return 1
            if args.once or job.startswith("phone_fold"):
                continue
            if guarded(run, ["-u", name, *line, "-p", str(second)]):
                return 1
            compared += 1
            if bits(first) != bits(second):
                differing.append(f"{job}/{name}")
    for job in all_jobs:
        if not job.startswith("phone_fold"):
            print(f"\n{job}\n{table([args.out / job / name for name in args.upstreams])}")
    print(
        f"\nphones, four folds pooled\n{table([args.out / f'phone_fold{i}' / name for name in args.upstreams for i in range(len(FOLDS))], pool=True)}"
    )
    print(
        f"\nsecond runs: {compared - len(differing)} of {compared} equal bit for bit{': not ' + ', '.join(differing) if differing else ''}"
    )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
