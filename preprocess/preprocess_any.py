"""Acoustic features of any corpus: `python preprocess/preprocess_any.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a clone runs without being installed

from headwater.cli.shell import guarded
from headwater.preprocess.commands import preprocess_any

if __name__ == "__main__":
    sys.exit(guarded(preprocess_any, sys.argv[1:]))
