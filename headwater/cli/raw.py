"""`headwater raw`: audio as the raw files of NII's vocoders."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from headwater.cli.shell import say
from headwater.errors import UsageError

EPILOG = """examples:
  headwater raw recordings --out raw                           recordings/anna.wav -> raw/anna.mfbsp and raw/anna.f0
  python run_downstream.py -m predict -e RUN raw --out OUT     resynthesises them, RUN being one of vocoder_nsf"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="headwater raw",
        description="Write mel frames (.mfbsp, 80 bands) and F0 (.f0, Hz, 0 where unvoiced) of audio, every 5 ms, as headless little-endian float32.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = top.add_argument
    add("files", nargs="+", type=Path, metavar="FILE_OR_FOLDER", help="audio")
    add("--out", type=Path, required=True, metavar="DIR", help="a folder; the files are called as the audio is")
    add("--n-fft", type=int, metavar="N", help="of the mel frames (default: 2048, that of the published weights)")
    add("--tracker", metavar="NAME", help="of F0: dio, harvest, and each with +stonemask (default: dio+stonemask)")
    add("--floor-hz", type=float, metavar="HZ", help="of F0 (default: 71)")
    add("--ceiling-hz", type=float, metavar="HZ", help="of F0 (default: 800)")
    add("--resample", action="store_true", help="resample audio of another rate than 16 kHz instead of refusing it")
    add("--force", action="store_true", help="overwrite")
    return top


def main(arguments: Sequence[str]) -> int:
    """Look at all headers, then write both files of each."""
    args = parser().parse_args(list(arguments))
    from headwater.audio import read
    from headwater.cli.flags import given
    from headwater.data.corpus import Utterance
    from headwater.data.measure import measure
    from headwater.progress import progress
    from headwater.results.files import all_or_none
    from headwater.results.names import safe, unique
    from headwater.train.predict import audio_files
    from headwater.vocoder.raw import F0, MEL, RATE, analysed, write_f0, write_mel

    if args.out.exists() and not args.out.is_dir():
        raise UsageError(f"--out {args.out} is no folder")
    found = audio_files(args.files)
    measure([Utterance(name, file) for name, file in found], sample_rate=RATE, resample=args.resample)
    stems = unique(safe(file.stem) for _, file in found)
    there = [args.out / f"{stem}{suffix}" for stem in stems for suffix in (MEL, F0)]
    if not args.force and (taken := next((file for file in there if file.exists()), None)) is not None:
        raise UsageError(f"{taken} is there already; choose another --out, or overwrite with --force")
    settings = given(n_fft=args.n_fft, tracker=args.tracker, floor_hz=args.floor_hz, ceiling_hz=args.ceiling_hz)
    with all_or_none(args.out) as place:
        for stem, (_, file) in zip(stems, progress(found, total=len(found), what="analyse", unit="file"), strict=True):
            mel, f0 = analysed(read(file, sample_rate=RATE, resample=args.resample), **settings)
            write_mel(place / f"{stem}{MEL}", mel)
            write_f0(place / f"{stem}{F0}", f0)
    say(f"raw        {len(stems)} {MEL} and as many {F0} in {args.out}")
    return 0
