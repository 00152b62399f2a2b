"""Runs the measurements one after another, and keeps what they print.

    make bench                                                        all of them in a quick form: about 15 minutes on two cores
    python bench/collect.py [NAME ...] --data ../shared/data --write  in full, into the tables of bench/README.md, with machine and commit
    python bench/collect.py [NAME ...] [--quick] [--data DATA] [--threads 2]

NAME is one of the programs beside this one. Outputs are passed on as they come. A program that fails stops nothing, and its table stays as it was; the exit
code is then 1.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "bench" / "README.md"


@dataclass(frozen=True)
class Form:
    """How a program is called: in full, quickly, and what it is told about data where there is some (DATA stands for the folder)."""

    full: str = ""
    quick: str = ""
    data: str = ""
    threads: str = ""  # what stands before their number


FORMS = {
    "machine": Form("--seconds 5", "--seconds 1", threads="--threads"),
    "fbank": Form("--repetitions 9", "--repetitions 3", threads="--threads"),
    "extraction": Form("", "--quick", "--data DATA", "--threads"),
    "probing": Form("", "--limit 96", "DATA", "--threads"),
    "grid": Form("--repeat 1", "--small --epochs 5 --repeat 1", threads="--threads"),
    "trials": Form(),
    "detection": Form("", "--check 500"),
    "separation": Form("", "--small --batch 2 --repeats 3", threads="--threads"),
    "vocoder": Form("", "--repetitions 2", threads="--threads"),
    "pretrain": Form("--steps 20 --repetitions 3 -o runner.precision=bf16", "--steps 4 --repetitions 1"),
    "store": Form("--kills 20", "--kills 5"),
    "kill": Form("--kills 20", "--kills 3 --tasks speaker"),
    "vs_s3prl": Form("", "--clips 12 --repetitions 1", "DATA", "--threads"),
}


def command_of(name: str, *, quick: bool, data: bool, threads: int | None) -> list[str]:
    """The words behind `python`; DATA stands for the folder."""
    form = FORMS[name]
    words = [f"bench/{name}.py", *shlex.split(form.quick if quick else form.full)]
    words += shlex.split(form.data) if data else []
    return words + ([form.threads, str(threads)] if threads and form.threads else [])


def run(words: list[str], data: Path | None, threads: int | None) -> tuple[str, float, int]:
    """What a program prints on standard output, passed on line by line; its seconds and its exit code."""
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONUNBUFFERED": "1"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    begun = time.monotonic()
    command = [sys.executable, *(str(data) if word == "DATA" else word for word in words)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    return "".join(lines), time.monotonic() - begun, process.wait()


def commit() -> str:
    """The commit that is measured, and whether files were changed since (this program's own tables left aside)."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/README.md")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")


def processors() -> str:
    """What the machine calls its processor, and how many it has."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return f"{found[1] if found else 'processor unknown'}, {os.cpu_count()} logical processor(s)"


def block(words: list[str], output: str, about: str) -> str:
    """A table of bench/README.md."""
    return f"{about}\n\n```\n$ python {shlex.join(words)}\n{output.rstrip()}\n```\n"


def replaced(text: str, name: str, content: str) -> str:
    """The page with another table of this name. `KeyError` where it has no place for one."""
    pattern = re.compile(rf"(<!-- measured: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(text):
        raise KeyError(name)
    return pattern.sub(lambda match: f"{match[1]}{content}{match[2]}", text, count=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(FORMS)}; all when none is given")
    parser.add_argument("--quick", action="store_true", help="in a quick form")
    parser.add_argument("--data", type=Path, help="real speech; the demo corpus when not given")
    parser.add_argument("--threads", type=int, help="as many as torch takes when not given")
    parser.add_argument("--write", action="store_true", help="into bench/README.md")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in FORMS]:
        parser.error(f"there is no {unknown[0]}: {', '.join(FORMS)}")
    data = args.data.resolve() if args.data else None
    about = f"{processors()}; commit {commit()}"
    print(about, flush=True)
    failed, begun = [], time.monotonic()
    for name in args.names or FORMS:
        words = command_of(name, quick=args.quick, data=data is not None, threads=args.threads)
        print(f"\n$ python {shlex.join(words)}", flush=True)
        output, seconds, code = run(words, data, args.threads)
        print(f"({seconds:.0f} s{f', exit code {code}' if code else ''})", flush=True)
        if code:
            failed.append(name)
        elif args.write:
            README.write_text(
                replaced(README.read_text(encoding="utf-8"), name, block(words, output, about)), encoding="utf-8"
            )
    print(f"\n{(time.monotonic() - begun) / 60:.1f} min; {' and '.join(failed) + ' failed' if failed else 'all done'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
