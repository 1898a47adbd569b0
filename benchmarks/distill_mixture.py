"""What every distiller does where the truth is known: a mixture of Gaussians in the plane, errors in absolute terms.

    fewstep run experiment=bench_mixture     # trains and measures, resumable
    python benchmarks/distill_mixture.py     # writes docs/distillers_mixture.md and its figure from the results

Errors are means over components, of samples that were asked for that component; stages/metrics/judgement.py has them.
Beside them stand the verdicts on the claims of benchmarks/distill.py by the same distance, and how alike the ranks of
arms are to those on the digits, as benchmarks/distill_shapes.py tells it.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import distill, distill_shapes  # noqa: E402
from benchmarks.arms import Numbers, Row, claims, rows_of, told  # noqa: E402
from benchmarks.pages import ask_for, line, put  # noqa: E402

PRESET = "experiment=bench_mixture"
PAGE, FIGURE = Path("docs/distillers_mixture.md"), Path("docs/images/distillers_mixture.png")
DISTANCE = "wasserstein2"
ERRORS: Mapping[str, str] = {
    DISTANCE: "Wasserstein-2",
    "weight_error": "weight",
    "mean_error": "mean",
    "std_error": "deviation",
    "nll_error": "log-likelihood, nats",
    "score_seen": "score",
}
"""Of evaluate's numbers, and what the table calls them."""
APART = ("small_", "sfd_unlearn")
"""How arms begin whose rank on the digits says another thing: networks too small for those, and what is to forget."""


def main() -> None:
    """Write the page and its figure."""
    ask_for(["evaluate"], PRESET)
    metrics = json.loads(Path("data/evaluate/metrics.json").read_text())
    rows = list(rows_of(metrics, ("teacher", "distill")))
    here = distill_shapes.measured([row for row in rows if not row.name.startswith(APART)], DISTANCE)
    digits = distill_shapes.read((ROOT / distill.PAGE).read_text(), here)
    verdicts = claims(rows, distill.CLAIMS, DISTANCE, least=True, steady=distill.STEADY)
    parts = (distill_shapes.beside(here, digits), verdicts, table(rows, metrics["real"]["images"]))
    put(ROOT / PAGE, "distill_mixture.py", "\n\n".join(parts))
    distill_shapes.draw(here, digits, ("Wasserstein-2", "the mixture"), ROOT / FIGURE)
    print(f"{PAGE} and {FIGURE} written: {len(rows)} rows")


def table(rows: Sequence[Row], real: Numbers) -> str:
    """A row of other samples of the `real` law, one a way of sampling: the teacher's, then by calls the nearest."""
    head = ["model", "calls", *ERRORS.values(), "trainings"]
    lines = [line(head), line(["---"] * len(head))]
    lines.append(line(["the law itself", "", *(told(real, error) for error in ERRORS), ""]))
    for row in sorted(rows, key=lambda row: (row.group != "teacher", row.nfe, row.numbers[DISTANCE])):
        means = [told(row.numbers, error) for error in ERRORS]
        name = "teacher" if row.group == "teacher" else row.name
        lines.append(line([name, str(row.nfe), *means, str(int(row.numbers["trainings"]))]))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
