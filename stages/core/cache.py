"""Where this machine keeps what can be had again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """FEWSTEP_CACHE, else in the user's cache."""
    given = os.environ.get("FEWSTEP_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fewstep"
