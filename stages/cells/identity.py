"""What decides a cell: its key. Equal keys, equal bytes, on the same kind of machine."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from stages.cells.measure import Cell
from stages.core.hashing import sha256_of_files
from stages.io import code
from stages.io.artefacts import sha256_of

MEASURES = MappingProxyType(
    {"reward": "stages.cells.reward", "metric": "stages.cells.metric", "steered": "stages.cells.steered"}
)
"""Kind of a cell -> the module that measures it, where that is not `stages.cells.measure`."""
LIBRARIES = ("torch", "numpy", "diffusers", "transformers")
"""What computes, besides our own code."""
_REWARDS = ("rapidocr", "onnxruntime")
EXTRAS = MappingProxyType({"reward": _REWARDS, "steered": _REWARDS})
"""Kind of a cell -> what may compute in it where it is installed."""


def key(cell: Cell, inputs: Mapping[str, str], device: str, threads: int) -> str:
    """32 hex digits that change with whatever a measurement may depend on.

    `inputs` are the digests of all that it reads: model, dataset, verifier. How many threads share a sum decides its
    last bits.
    """
    told = {
        "cell": cell.facts,
        "inputs": dict(inputs),
        "code": source(MEASURES.get(cell.kind, "stages.cells.measure")),
        "libraries": _libraries(cell.kind),
        "device": device,
        "threads": threads,
    }
    return sha256_of(told)[:32]


@cache
def source(module: str, root: Path = code.ROOT) -> str:
    """sha256 of the code under `root` that `module` reaches, as it was when this process first asked."""
    return sha256_of_files(root, code.reached([module], root))


@cache
def _libraries(kind: str) -> Mapping[str, str]:
    extras = [name for name in EXTRAS.get(kind, ()) if find_spec(name)]
    return {name: version(name) for name in (*LIBRARIES, *extras)}
