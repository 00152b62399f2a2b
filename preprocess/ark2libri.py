"""LibriSpeech features from Kaldi archives: `python preprocess/ark2libri.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a clone runs without being installed

from headwater.cli.shell import guarded
from headwater.preprocess.commands import ark2libri

if __name__ == "__main__":
    sys.exit(guarded(ark2libri, sys.argv[1:]))
