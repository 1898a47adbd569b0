"""What benches that write a page of docs/ do alike: ask for what they start from, and put tables between marks."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

END = "<!-- up to here -->"


def begin(script: str) -> str:
    """The line behind which benchmarks/`script` writes; what is before it and behind END are people's words."""
    return f"<!-- written by benchmarks/{script} -->"


def put(page: Path, script: str, text: str) -> None:
    """`text` between the page's marks for that script, in the place of what stood there."""
    mark = begin(script)
    before, after = page.read_text(encoding="utf-8").split(mark)
    page.write_text(f"{before}{mark}\n\n{text}\n\n{END}{after.split(END, 1)[1]}", encoding="utf-8")


def line(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def ask_for(artefacts: Iterable[str], preset: str) -> None:
    """End with one message unless data/ has all of them."""
    for needed in artefacts:
        if not (Path("data") / needed / "manifest.json").is_file():
            print(f"data/{needed}: not made; run `fewstep run {preset}` first", file=sys.stderr)
            sys.exit(1)
