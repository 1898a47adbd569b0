"""`python -m flows` is `fewstep`."""

import sys

from flows.cli.main import main

if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.exit(main())
