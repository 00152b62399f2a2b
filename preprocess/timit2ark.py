"""Kaldi archives from a folder of features: `python preprocess/timit2ark.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a clone runs without being installed

from headwater.cli.shell import guarded
from headwater.preprocess.commands import timit2ark

if __name__ == "__main__":
    sys.exit(guarded(timit2ark, sys.argv[1:]))
