"""What a service has said of an image and a prompt, kept on this machine.

A service may answer otherwise when it is asked again, and then a training that goes on from a checkpoint would be
another one. So the first answer stands, for every process of this machine. The file is in the cache, and may be deleted
like anything there.
"""

import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from stages.core.cache import cache_folder
from stages.core.hashing import sha256
from stages.core.pictures import pictures
from stages.core.prompts import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_PATIENCE_S = 60.0
_AT_ONCE = 500

Ask = Callable[["list[Image]", list[Prompt]], list[float]]
"""Scores of pictures for as many prompts, NaN where there is no verdict."""


class Verdicts:
    """Of the service that `service` describes: all that decides its answers."""

    def __init__(self, service: Mapping[str, object]) -> None:
        name = sha256(json.dumps(service, sort_keys=True).encode())[:32]
        self._file = cache_folder() / "verdicts" / f"{name}.sqlite"

    def of(self, images: "Tensor", prompts: Sequence[Prompt], ask: Ask) -> list[float]:
        """Scores of images [B, C, H, W] in [0, 1] for their prompts; `ask` tells those that are not known."""
        drawn = pictures(images)
        keys = [_key(image, prompt) for image, prompt in zip(drawn, prompts, strict=True)]
        known = self._known(keys)
        missing = {key: place for place, key in enumerate(keys) if key not in known}
        if missing:
            asked = list(missing.values())
            self._keep(dict(zip(missing, ask([drawn[i] for i in asked], [prompts[i] for i in asked]), strict=True)))
            known = self._known(keys)  # another process may have been quicker: its answer stands
        return [known[key] for key in keys]

    def _known(self, keys: Sequence[str]) -> dict[str, float]:
        found = dict[str, float]()
        with self._open() as table:
            for start in range(0, len(keys), _AT_ONCE):
                some = keys[start : start + _AT_ONCE]
                marks = ", ".join("?" * len(some))
                rows = table.execute(f"SELECT key, score FROM verdicts WHERE key IN ({marks})", some)  # noqa: S608
                found |= {key: math.nan if score is None else score for key, score in rows}
        return found

    def _keep(self, found: Mapping[str, float]) -> None:
        rows = [(key, None if math.isnan(score) else score) for key, score in found.items()]
        with self._open() as table, table:
            table.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with closing(sqlite3.connect(self._file, timeout=_PATIENCE_S)) as table:
            table.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, score REAL)")
            yield table


def _key(image: "Image", prompt: Prompt) -> str:
    """sha256 of what is seen and what is asked."""
    asked = json.dumps([image.mode, image.size, prompt.text, dict(prompt.facts), prompt.negative], sort_keys=True)
    return sha256(asked.encode() + b"\0" + image.tobytes())
