"""The source that a stage reaches: what its result depends on beside parameters and inputs, and so does its work."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import MappingProxyType

from stages.core.hashing import sha256_of_files

ROOT = Path(__file__).parents[2]
METHODS = MappingProxyType({"distill": "stages.distillers", "rl": "stages.policies"})
"""Stages with arms -> the package of their methods. Its table of all methods is no arm's: a new method changes none."""
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(stages[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]+)|import[ \t]+(stages[\w.]+))", re.MULTILINE
)
"""As ruff formats them. Parsing a hundred files takes half a second, and a process of a stage starts often."""


@cache
def digest(stage: str, method: str | None) -> str:
    """sha256 of `files`, as they were when this process first asked: about what it holds in memory."""
    return sha256_of_files(ROOT, files(stage, method))


def files(stage: str, method: str | None, root: Path = ROOT) -> frozenset[Path]:
    """The files under `root` that an execution of `stage`, with the arm's `method` if it has arms, can run.

    dvc.yaml names the same as folders, so that whatever begins work anew also makes DVC run the stage.
    """
    own = [f"{METHODS[stage]}.{method}"] if stage in METHODS else []
    return reached([f"stages.{stage}", "stages.io.run", *own], root)


def reached(modules: list[str], root: Path = ROOT) -> frozenset[Path]:
    """The files under `root` of these modules of `stages`, and of all that they import, however far down."""
    seen, found = set[str](), set[Path]()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen or module in METHODS.values():
            continue
        seen.add(module)
        file = _file(module, root)
        if file is None:  # what is imported is no module but something in one
            continue
        found.add(file)
        waiting += imported(file.read_text(encoding="utf-8"))
    return frozenset(found)


def imported(source: str) -> Iterator[str]:
    """The modules of `stages` that `source` imports, packages above them too, and names that may be modules."""
    for package, names, module in _IMPORT.findall(source):
        parts = (package or module).split(".")
        yield from (".".join(parts[:depth]) for depth in range(2, len(parts) + 1))
        yield from (f"{package}.{name}" for name in re.findall(r"\w+", names))


def _file(module: str, root: Path) -> Path | None:
    place = root / module.replace(".", "/")
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)
