"""S3PRL itself, as an installed package, on the same audio with the same weights: extraction by a TERA of base size.

    OMP_WAIT_POLICY=PASSIVE python bench/vs_s3prl.py [DATA] [--clips 32] [--repetitions 3] [--threads 2] [--small] [--env DIR] [--python FILE]

S3PRL gets an environment of its own in DIR (in the cache when not given), which shares torch with this one; --python names the interpreter of one that is there
already. Where it cannot be installed or does not run, the program says why in a sentence and ends with exit code 0.

Random weights are written as a checkpoint of S3PRL's and loaded by both. A process of S3PRL's computes all hidden states of a batch of 8 padded utterances, as
its runner does for a frozen upstream, and of utterances one by one; ours is what every run uses. Repetitions are interleaved. First the outputs are compared:
ours with S3PRL's for utterances alone, on every frame; and what S3PRL's own become in its padded batches.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("s3prl==0.4.18", "omegaconf", "torchaudio", "setuptools<80")
TRIED = "from s3prl.upstream.tera.expert import UpstreamExpert"
ANSWER = "HEADWATER "  # before lines of the child that are for the parent; S3PRL prints, too
BATCH = 8
SMALL = {"hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 1024}
INSTALL_S = 300


class Missing(Exception):
    """Why S3PRL is not there, as a sentence."""


def interpreter(folder: Path) -> Path:
    """The Python of an environment in which S3PRL can be imported; the environment is made where there is none."""
    from headwater.download import offline

    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        if offline():
            raise Missing("HEADWATER_OFFLINE forbids to install S3PRL")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            venv.create(folder, with_pip=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Missing(f"no environment for S3PRL could be made in {folder}: {error}") from None
        own = Path(
            subprocess.check_output(
                [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
            ).strip()
        )
        (own / "zz_host.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # torch, numpy, yaml ...
        call(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", *PACKAGES],
            "be installed",
        )
        if subprocess.run([python, "-c", "import torchaudio"], capture_output=True).returncode:
            # Its compiled part is of another version of torch; what TERA's front-end needs of it is Python.
            shutil.rmtree(own / "torchaudio" / "lib", ignore_errors=True)
        call([python, "-c", TRIED], "be imported")
        (folder / "ready").touch()
    return python


def call(command: Sequence[str | Path], what: str) -> None:
    """`Missing` with the last line of what it said where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        raise Missing(f"S3PRL could not {what} within {INSTALL_S} s") from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()
        raise Missing(f"S3PRL could not {what}: {last[-1] if last else f'exit code {done.returncode}'}")


def serve(folder: Path, threads: int) -> None:
    """The child, in S3PRL's environment: loads the checkpoint, then does what it is told by lines on its standard input."""
    import numpy as np
    import torch
    from s3prl.upstream.tera.expert import UpstreamExpert

    torch.set_num_threads(threads)
    model = UpstreamExpert(str(folder / "model.ckpt")).eval()
    with np.load(folder / "clips.npz") as file:
        wavs = [torch.from_numpy(file[name]) for name in file.files]
    about = {"parameters": sum(p.numel() for p in model.parameters()), "version": metadata.version("s3prl")}
    print(ANSWER + json.dumps(about), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        groups = [[wavs[number] for number in group] for group in asked["groups"]]
        begun = time.perf_counter()
        with torch.no_grad():
            found = [model(group)["hidden_states"] for group in groups]
        took = time.perf_counter() - begun
        if asked.get("to"):
            rows = {}
            for numbers, states in zip(asked["groups"], found):
                for place, number in enumerate(numbers):
                    rows.update({f"{number}.{layer}": state[place].numpy() for layer, state in enumerate(states)})
            np.savez(asked["to"], **rows)
        print(ANSWER + json.dumps(took), flush=True)


class Theirs:
    """The child, from the parent's side."""

    def __init__(self, python: Path, folder: Path, threads: int, log: Any) -> None:
        self.folder = folder
        command = [str(python), __file__, "--serve", str(folder), "--threads", str(threads)]
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        except OSError as error:
            raise Missing(f"{python}: {error.strerror}") from None
        about = self._answer()
        self.parameters, self.version = about["parameters"], about["version"]

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
        raise Missing("S3PRL did not run")

    def seconds(self, groups: Sequence[Sequence[int]], to: Path | None = None) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"groups": [list(group) for group in groups], "to": to and str(to)}) + "\n")
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(python: Path, args: argparse.Namespace, folder: Path, log: Any) -> None:
    import numpy as np
    import torch

    import headwater
    from headwater.audio import read
    from headwater.data.demo import demo_corpus
    from headwater.mam import s3prl
    from headwater.speed.machine import limits, matmul_peak
    from headwater.speed.upstream import operations
    from headwater.store.compute import Extractor

    threads = args.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    config = {"random_weights": 0, "sequence_length": 0, **({"transformer": SMALL} if args.small else {})}
    upstream: Any = headwater.load("tera", config=config)
    s3prl.write(folder / "model.ckpt", upstream.settings, upstream.transformer.state_dict())
    files = sorted((args.data / "LibriSpeech").rglob("*.flac")) if args.data else []
    source = "LibriSpeech" if files else "the demo corpus"
    files = files or sorted(utterance.path for utterance in demo_corpus().utterances)
    count = min(args.clips, len(files))
    wavs = [read(files[number * len(files) // count]) for number in range(count)]
    np.savez(folder / "clips.npz", **{str(number): wav.numpy() for number, wav in enumerate(wavs)})
    audio = sum(map(len, wavs)) / upstream.sample_rate
    theirs = Theirs(python, folder, threads, log)
    print(f"{limits(threads)}; {source}")
    print(
        f"TERA, {theirs.parameters / 1e6:.1f} M parameters, {count} clips, {audio:.0f} s; S3PRL {theirs.version}",
        flush=True,
    )

    in_order = list(range(count))
    by_length = sorted(in_order, key=lambda number: len(wavs[number]))
    few = by_length[:: -(-count // BATCH)]
    extractor: Extractor[Any] = Extractor(
        upstream, range(upstream.num_layers), lambda clip: wavs[int(clip.id)], workers=threads
    )

    def ours(order: Sequence[int]) -> list[Any]:
        return [row for rows in extractor([[argparse.Namespace(id=str(number))] for number in order]) for row in rows]

    theirs.seconds([[number] for number in few], folder / "alone.npz")
    theirs.seconds([few], folder / "padded.npz")
    alone, padded = (dict(np.load(folder / f"{name}.npz")) for name in ("alone", "padded"))
    own = {f"{number}.{layer}": state.numpy() for number, row in zip(few, ours(few)) for layer, state in enumerate(row)}
    print("difference from what S3PRL gives for an utterance alone, relative to the RMS of the layer:")
    print(f"ours {worst(own, alone):.1e}; S3PRL's own in a padded batch {worst(padded, alone):.1e}")

    took: dict[tuple[str, str], list[float]] = {}
    peaks = []
    for _ in range(args.repetitions):
        peaks.append(matmul_peak("float32", threads))
        for name, order in (("file order", in_order), ("by length", by_length)):
            groups = [order[first : first + BATCH] for first in range(0, count, BATCH)]
            took.setdefault((name, "S3PRL, batches of 8"), []).append(theirs.seconds(groups))
            took.setdefault((name, "S3PRL, one by one"), []).append(theirs.seconds([[number] for number in order]))
            begun = time.perf_counter()
            ours(order)
            took.setdefault((name, "ours"), []).append(time.perf_counter() - begun)
    theirs.close()
    flops, peak = operations(upstream, wavs, torch.device("cpu")), statistics.median(peaks)
    print(f"{'order':<12}{'way':<22}{'audio s/s':>10}{'share of peak':>15}   times S3PRL in batches of 8")
    for (name, way), times in took.items():
        ratios = sorted(rival / mine for rival, mine in zip(took[name, "S3PRL, batches of 8"], times))
        share = 100 * statistics.median(flops / one / peak for one in times)
        print(
            f"{name:<12}{way:<22}{audio / statistics.median(times):>10.1f}{share:>13.0f} %   "
            f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
        )
    print(f"{flops / audio / 1e9:.2f} GFLOP for a second of audio, peak {peak / 1e9:.0f} GFLOP/s")


def worst(found: dict[str, Any], right: dict[str, Any]) -> float:
    """The largest over layers of: the largest difference over the RMS of the layer; frames that only one of them has are left out."""
    import numpy as np

    layers: dict[str, list[Any]] = {}
    for name, state in right.items():
        other = found[name][: len(state)]
        layers.setdefault(name.rpartition(".")[2], []).append((other, state[: len(other)]))
    return max(
        float(np.abs(a - b).max() / np.sqrt(np.square(b).mean()))
        for a, b in (map(np.concatenate, zip(*pairs)) for pairs in layers.values())
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data", nargs="?", type=Path, metavar="DATA", help="a folder with LibriSpeech/; else the demo corpus"
    )
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, help="as many as torch takes when not given")
    parser.add_argument("--small", action="store_true", help="a small model, for trying this program out")
    parser.add_argument("--env", type=Path, metavar="DIR", help="where S3PRL's environment is, or is made")
    parser.add_argument("--python", type=Path, metavar="FILE", help="the interpreter of an environment that has S3PRL")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.threads)
        return 0
    from headwater.paths import cache_root

    args.env = args.env or cache_root() / "bench" / "s3prl"
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "log.txt", "w+") as log:
        try:
            compare(args.python or interpreter(args.env), args, Path(folder), log)
        except Missing as missing:
            log.seek(0)
            last = log.read().strip().splitlines()
            print(f"{missing}{f' ({last[-1]})' if last else ''}; so there is no comparison with it here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
