"""What benches that write a page of docs/ do alike: ask for what they start from, and put tables between marks."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stages.core.trainings import spread

END = "<!-- up to here -->"


def begin(script: str) -> str:
    """The line behind which benchmarks/`script` writes; what is before it and behind END are people's words."""
    return f"<!-- written by benchmarks/{script} -->"


def put(page: Path, script: str, text: str) -> None:
    """`text` between the page's marks for that script, in the place of what stood there."""
    mark = begin(script)
    before, after = page.read_text(encoding="utf-8").split(mark)
    page.write_text(f"{before}{mark}\n\n{text}\n\n{END}{after.split(END, 1)[1]}", encoding="utf-8")


def manifests(artefacts: Iterable[str]) -> dict[str, Any]:
    """What data/ has of each: results are called after it, so that those of others are not taken for theirs."""
    return {name: json.loads((Path("data") / name / "manifest.json").read_text()) for name in artefacts}


def averaged(values: Sequence[float], form: str = ".3g") -> str:
    """The mean of values, and Student's 95 % interval of it where there are several."""
    around = f" ± {spread(values).reach:.2g}" if len(values) > 1 else ""
    return f"{sum(values) / len(values):{form}}{around}"


def line(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def ask_for(artefacts: Iterable[str], preset: str) -> None:
    """End with one message unless data/ has all of them."""
    for needed in artefacts:
        if not (Path("data") / needed / "manifest.json").is_file():
            print(f"data/{needed}: not made; run `fewstep run {preset}` first", file=sys.stderr)
            sys.exit(1)
