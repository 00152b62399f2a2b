"""Frame labels from Montreal alignments: `python preprocess/preprocess_alignment.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a clone runs without being installed

from headwater.cli.shell import guarded
from headwater.preprocess.commands import preprocess_alignment

if __name__ == "__main__":
    sys.exit(guarded(preprocess_alignment, sys.argv[1:]))
