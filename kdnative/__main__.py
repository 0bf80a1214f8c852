"""``python -m kdnative``: the same as the ``kdnative`` command."""

import sys

from kdnative.cli import main

if __name__ == "__main__":
    sys.exit(main())
