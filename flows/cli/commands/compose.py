"""`fewstep compose [overrides...]`: params/ to params.yaml, as `dvc exp run -S` does it."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Hydra overrides, and whether to only look."""
    parser.add_argument("overrides", nargs="*", help="experiment=gmm, distill.arms.tdm1.nfe=2, ...")
    parser.add_argument("--show", action="store_true", help="print it, change nothing")


def main(parsed: argparse.Namespace) -> int:
    """Write or show."""
    if parsed.show:
        from stages.io.params import compose

        print(compose(Path("params"), parsed.overrides), end="")
        return 0
    from flows.runtime import locks

    with locks.hold("pipeline"):
        write(parsed.overrides)
    print("params.yaml written")
    return 0


def write(overrides: Sequence[str]) -> None:
    """Compose params.yaml, and check the graph of arms that it describes."""
    import yaml

    from flows.project import graph
    from stages.io.params import compose

    text = compose(Path("params"), overrides)
    graph.nodes(yaml.safe_load(text))
    target = Path("params.yaml")
    if not target.is_file() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")
