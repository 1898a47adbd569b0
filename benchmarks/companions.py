"""What a second network beside the model's own is worth, and a second prompt: the tables of docs/companions.md.

    fewstep run experiment=companions
    python benchmarks/companions.py

Networks: each arm that asks its companion, and what does without, as evaluate measured them; three trainings an arm on
one teacher. Prompts: of pictures of the empty prompt, led away from a medium upright digit, how many still are that
digit; a tenth were it by chance. That is the teacher's guidance in 8 steps, and NASA in the 2 steps of three students.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.arms import DISTANCE, SCORE, Claim, Row, claims, rows_of, told  # noqa: E402
from benchmarks.pages import ask_for, averaged, line, put  # noqa: E402
from stages.cells.bench import Bench  # noqa: E402
from stages.core.config import check  # noqa: E402
from stages.core.frechet import frechet_distance  # noqa: E402
from stages.core.prompts import EMPTY, Prompt  # noqa: E402
from stages.models import load, table_of  # noqa: E402
from stages.samplers.spec import Sampler  # noqa: E402
from stages.samplers.student import Noise, draw  # noqa: E402

PAGE, PRESET = Path("docs/companions.md"), "experiment=companions"
STUDENTS = ("distill/tdm", "distill/tdm-r2", "distill/tdm-r3")
EACH = 60
"""Pictures that are led away from a digit."""
GUIDED, STEERED = (1.0, 1.5, 2.0, 3.0), (0.0, 0.1, 0.3, 0.5, 1.0)
CLAIMS: Sequence[Claim] = (
    ("a tenth of the teacher's word helps a consistency student (Distillation++)", ("cd_teacher", 3), ("cd", 2)),
    ("a half of it does", ("cd_teacher_half", 3), ("cd", 2)),
    ("a tenth of the teacher's word helps a student of TDM", ("tdm_teacher", 3), ("tdm", 2)),
    ("a refiner beats its steps without (FlowTurbo)", ("turbo", 6), ("turbo_unrefined", 5)),
    ("FlowTurbo beats Euler's rule in as many calls", ("turbo", 6), ("teacher", 6)),
    ("a learned variance beats the posterior's (iDDPM)", ("variance", 15), ("variance_small", 8)),
    ("and beta's", ("variance", 15), ("variance_large", 8)),
    ("ancestral steps of a learned variance beat steps without noise", ("variance", 15), ("teacher", 8)),
    ("a small network may take the noisier half of the steps (T-Stitch)", ("small_stitched", 8), ("teacher", 8)),
    ("the large one helps the small one", ("small_stitched", 8), ("small", 8)),
)


def main() -> None:
    """Write the page."""
    ask_for(["dataset", "encode", "verifier", "teacher", "evaluate", *STUDENTS], PRESET)
    rows = list(rows_of(json.loads(Path("data/evaluate/metrics.json").read_text()), ("teacher", "distill")))
    put(ROOT / PAGE, "companions.py", "\n\n".join([networks(rows), compared(rows), negatives()]))
    print(f"{PAGE} written")


def networks(rows: Sequence[Row]) -> str:
    """A row a way of sampling."""
    lines = [line(["", "calls", "network calls' worth", "distance", "held-out score", "recall"]), line(["---"] * 6)]
    for row in sorted(rows, key=lambda row: (row.group, row.name if row.group == "distill" else "", row.nfe)):
        name = "teacher" if row.group == "teacher" else row.name
        numbers = [told(row.numbers, name) for name in (DISTANCE, SCORE, "recall")]
        lines.append(line([f"`{name}`", str(row.nfe), f"{row.numbers['network_calls']:.3g}", *numbers]))
    return "### Networks\n\n" + "\n".join(lines)


def compared(rows: Sequence[Row]) -> str:
    """The claims, by distance."""
    return "### Claims\n\n" + claims(rows, CLAIMS, DISTANCE, least=True)


def negatives() -> str:
    """A row a way of leading away."""
    torch.set_num_threads(1)
    bench = Bench.load(Path("data/dataset"), table_of(Path("data/encode")), Path("data/verifier"), "cpu")
    real = bench.verifier.features(bench.dataset.test_images)
    named = {"slant": "upright", "weight": "medium"}
    asked = [each for each in bench.dataset.prompts if named.items() <= each.facts.items() for _ in range(EACH)]
    lines = [line(["", "still that digit", "distance"]), line(["---"] * 3)]
    for words, folders, stated in ways():
        found = [_led_away(bench, real, asked, folder, stated) for folder in folders]
        shares, distances = zip(*found, strict=True)
        lines.append(line([words, averaged(shares), averaged(distances)]))
    return "### Negative prompts\n\n" + "\n".join(lines)


def ways() -> Iterator[tuple[str, Sequence[str], dict[str, Any]]]:
    """In words, of which models, and the sampler."""
    for guidance in GUIDED:
        words = f"the teacher, guidance {guidance:g}" if guidance != 1 else "the teacher, not led"
        yield words, ["teacher"], {"schedule": {"name": "uniform", "steps": 8}, "guidance": guidance, "field": None}
    for weight in STEERED:
        words = f"students, NASA {weight:g}" if weight else "students, not led"
        field = {"name": "nasa", "weight": weight}
        yield words, STUDENTS, {"schedule": {"name": "uniform", "steps": 2}, "guidance": 1.0, "field": field}


@torch.no_grad()
def _led_away(
    bench: Bench, real: torch.Tensor, asked: Sequence[Prompt], folder: str, stated: dict[str, Any]
) -> tuple[float, float]:
    """The share that still is the digit, and the distance to real images."""
    spec = check(Sampler, {"rule": {"name": "euler"}, **stated}, "sampler").spec
    model = replace(load(Path("data") / folder / "model", bench.table, "cpu"), spec=spec)
    places = bench.table.rows([each.text for each in asked])
    negative = torch.tensor([[places[each.text]] for each in asked])
    samples = draw(model, torch.full_like(negative, EMPTY), Noise(0, "negative"), negative=negative)
    images = model.space.decode(samples)
    digit = list(bench.verifier.attributes).index("digit")
    right = bench.verifier.judge(images, asked)[:, digit].double().mean().item()
    return right, frechet_distance(bench.verifier.features(images), real)


if __name__ == "__main__":
    main()
