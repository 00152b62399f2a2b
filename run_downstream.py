"""Evaluate a speech representation on a task: `python run_downstream.py --help`."""

import sys

from headwater.cli.run import main
from headwater.cli.shell import guarded

if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
