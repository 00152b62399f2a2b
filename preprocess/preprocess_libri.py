"""Acoustic features of LibriSpeech: `python preprocess/preprocess_libri.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a clone runs without being installed

from headwater.cli.shell import guarded
from headwater.preprocess.commands import preprocess_libri

if __name__ == "__main__":
    sys.exit(guarded(preprocess_libri, sys.argv[1:]))
