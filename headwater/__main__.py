"""`python -m headwater`."""

import sys

from headwater.cli.main import entry

if __name__ == "__main__":
    sys.exit(entry())
