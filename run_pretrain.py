"""Train an upstream: `python run_pretrain.py --help`."""

import sys

from headwater.cli.pretrain import main
from headwater.cli.shell import guarded

if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
