"""`fewstep compose [overrides...]`: params/ to params.yaml, as `dvc exp run -S` does it."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Hydra overrides, and whether to only look."""
    parser.add_argument("overrides", nargs="*", help="experiment=gmm, distill.arms.tdm1.nfe=2, ...")
    parser.add_argument("--show", action="store_true", help="print it, change nothing")


def main(parsed: argparse.Namespace) -> int:
    """Write, unless something in it is at fault, or show."""
    from flows.pipeline import validation
    from flows.runtime import locks

    text = composed(parsed.overrides)
    if parsed.show:
        print(text, end="")
        return 0
    with locks.hold("pipeline"), tempfile.TemporaryDirectory(prefix="fewstep-compose-") as folder:
        file = Path(folder) / "params.yaml"
        file.write_text(text, encoding="utf-8")
        validation.Check(file).result()
        put(text)
    print("params.yaml written")
    return 0


def write(overrides: Sequence[str]) -> None:
    """Compose params.yaml, unlooked at."""
    put(composed(overrides))


def composed(overrides: Sequence[str]) -> str:
    """params/ under `overrides`, as text."""
    from stages.io.params import compose

    return compose(Path("params"), overrides)


def put(text: str) -> None:
    """Make `text` the parameters, in one step: half of them could be read as others. The same stay as they are."""
    from flows.project.parameters import FILE
    from flows.runtime.environment import HOME

    if not FILE.is_file() or FILE.read_text(encoding="utf-8") != text:
        begun = HOME / f"{FILE.name}.begun"
        begun.write_text(text, encoding="utf-8")
        begun.replace(FILE)
