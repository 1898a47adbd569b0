"""`fewstep plan [overrides...]`: what each stage will take, before anything starts."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.pipeline.planning import Planned

HEADS = (
    *("trained", "frozen", "weights", "optimiser", "activations", "memory"),
    *("forward", "backward", "scored", "files"),
)
UNITS = ("B", "kB", "MB", "GB", "TB")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Hydra overrides, and the card that it should fit."""
    parser.add_argument("overrides", nargs="*", help="experiment=gmm, distill.arms.tdm1.batch_size=64, ...")
    parser.add_argument("--memory", type=float, metavar="GB", help="of a card: say whether each training fits it")


def main(parsed: argparse.Namespace) -> int:
    """Print a table; 1 where `--memory` is asked for and something does not fit."""
    import tempfile

    from flows.cli.commands.compose import composed
    from flows.pipeline import planning, validation
    from stages.io import params

    text = composed(parsed.overrides)
    with tempfile.TemporaryDirectory(prefix="fewstep-plan-") as folder:
        file = Path(folder) / "params.yaml"
        file.write_text(text, encoding="utf-8")
        validation.Check(file).result()
    rows = list(planning.planned(params.parse(text, "params")))
    _show(rows)
    return 0 if parsed.memory is None else _fit(rows, int(parsed.memory * 1e9))


def _show(rows: "Sequence[Planned]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for head in HEADS:
        table.add_column(head, justify="right")
    for row in rows:
        needs = row.needs
        memory = needs and needs.memory
        cells = [""] * len(HEADS)
        if memory:
            held = (memory.weights, memory.gradients + memory.optimiser, memory.activations, memory.total)
            cells[:6] = [count(memory.trained), count(memory.frozen), *(size(each) for each in held)]
        if needs:
            cells[6:9] = [count(each) for each in (needs.forward, needs.backward, needs.scored)]
            cells[9] = size(needs.files) if needs.files else ""
        table.add_row(row.node.name, *cells)
    console = Console(soft_wrap=True, width=140)
    console.print(table)
    console.print(
        "\nParameters, bytes and samples through networks over the whole budget. Memory is one worker's: gradients "
        "are with\nthe optimiser; what frozen networks hold for a moment, a VAE and rewards are left out.",
        highlight=False,
    )
    for row in rows:
        if row.needs and row.needs.encoders:
            console.print(
                f"{row.node.name} keeps no table: each unit that looks prompts up has an encoder of "
                f"{size(row.needs.encoders)} beside it,\nand holds up to {size(row.held)} of what it was told last.",
                highlight=False,
            )


def _fit(rows: "Sequence[Planned]", budget: int) -> int:
    from flows.pipeline.planning import remedy

    code = 0
    for row in rows:
        memory = row.needs and row.needs.memory
        if not memory:
            continue
        if memory.total <= budget:
            print(f"{row.node.name}: fits into {size(budget)}")
            continue
        code, found = 1, remedy(row, budget)
        would = (
            f"{' '.join(found[0])} would take {size(found[1])}"
            if found
            else "no switch of this arm makes it fit: take a smaller batch, or hold the base in bfloat16"
        )
        print(f"{row.node.name}: needs {size(memory.total)}, more than {size(budget)}; {would}")
    return code


def size(count: int) -> str:
    """Bytes, in three digits or so."""
    number = float(count)
    for unit in UNITS:
        if number < 1000 or unit == UNITS[-1]:
            return f"{number:.3g} {unit}" if unit != "B" else f"{count} B"
        number /= 1000
    raise AssertionError


def count(number: int) -> str:
    """A number, in three digits or so."""
    if number < 1_000_000:
        return f"{number:,}"
    return f"{number / 1e6:,.4g} M" if number < 1e9 else f"{number / 1e9:,.4g} G"
