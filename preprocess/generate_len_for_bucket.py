"""Lists of lengths: `python preprocess/generate_len_for_bucket.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a clone runs without being installed

from headwater.cli.shell import guarded
from headwater.preprocess.commands import generate_len_for_bucket

if __name__ == "__main__":
    sys.exit(guarded(generate_len_for_bucket, sys.argv[1:]))
