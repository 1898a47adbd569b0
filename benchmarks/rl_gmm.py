"""How much reward a policy gets for its KL, against the least there is: on Gaussians with a linear reward.

    fewstep run experiment=gmm_rl     # a model of eight Gaussians, one a prompt, and the policies on it
    python benchmarks/rl_gmm.py       # writes the second table of docs/policies.md

Of all laws that gain so much of a reward <c, x> over N(m, S), the one next to it is N(m + shift, S), at
KL = gain^2 / (2 c'Sc): that is what a policy with a KL term should reach, and its variance stays. Each prompt's samples
are taken for a Gaussian, before and after, which cannot be nearer than they are. Rows are means over prompts, and over
trainings with Student's 95 % interval.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.pages import ask_for, averaged, line, put  # noqa: E402
from stages.core.prompts import EMPTY  # noqa: E402
from stages.io import replicates  # noqa: E402
from stages.io.params import compose, parse  # noqa: E402
from stages.models import Student, TextTable, load  # noqa: E402
from stages.samplers.student import Noise, draw  # noqa: E402

PRESET = "experiment=gmm_rl"
PAGE = Path("docs/policies.md")
NUM_SAMPLES = 4096
"""Of each prompt."""
NUMBERS = ("gain", "kl", "least", "share", "deviation")
Gaussian = tuple[Tensor, Tensor]
"""Mean [d] and covariance [d, d]."""


def main() -> None:
    """Sample every model, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    params = parse(compose(ROOT / "params", [PRESET]), "params")
    every = {arm: [*_names(arm, params["rl"]["arms"][arm])] for arm in params["rl"]["arms"]}
    ask_for(["encode", "teacher", *(f"rl/{name}" for names in every.values() for name in names)], PRESET)
    torch.set_num_threads(1)
    table = TextTable.load(Path("data/encode"))
    count = len(table.prompts)
    start = fitted(load(Path("data/teacher/model"), table, "cpu"), count)
    found = {}
    for arm, names in every.items():
        direction = torch.tensor(params["rl"]["arms"][arm]["rewards"]["up"]["direction"], dtype=torch.float64)
        models = [load(Path("data/rl") / name / "model", table, "cpu") for name in names]
        found[arm] = [told(start, fitted(model, count), direction) for model in models]
    put(ROOT / PAGE, "rl_gmm.py", page(found))
    print(f"{PAGE} written")


def _names(arm: str, section: Mapping[str, int]) -> list[str]:
    return [replicates.named(arm, number) for number in range(1, replicates.count(section) + 1)]


def fitted(model: Student, count: int) -> list[Gaussian]:
    """The Gaussian of each of `count` prompts' samples but the empty one's, from the same noise for every model."""
    laws = []
    for row in range(count):
        if row != EMPTY:
            points = draw(model, torch.full((NUM_SAMPLES, 1), row), Noise(0, f"rl_gmm/{row}"), batch_size=NUM_SAMPLES)
            flat = points.flatten(1).double()
            laws.append((flat.mean(dim=0), torch.cov(flat.T)))
    return laws


def told(before: Sequence[Gaussian], after: Sequence[Gaussian], direction: Tensor) -> dict[str, float]:
    """Means over prompts: the reward's gain, the KL that it took, the least that it takes, and how far samples lie."""
    rows = []
    for (old_mean, old), (mean, new) in zip(before, after, strict=True):
        gain = (mean - old_mean) @ direction
        least = gain.square() / (2 * direction @ old @ direction)
        rows.append(
            torch.stack([gain, divergence((mean, new), (old_mean, old)), least, (new.det() / old.det()) ** 0.25])
        )
    gain, kl, least, deviation = torch.stack(rows).mean(dim=0).tolist()
    return {"gain": gain, "kl": kl, "least": least, "share": least / kl, "deviation": deviation}


def divergence(of: Gaussian, to: Gaussian) -> Tensor:
    """KL(of || to), in nats."""
    laws = (torch.distributions.MultivariateNormal(mean, covariance) for mean, covariance in (of, to))
    return torch.distributions.kl_divergence(*laws)


def page(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """A row a policy, the one that wastes least first."""
    head = ["policy", "gain", "KL, nats", "least KL for that gain", "its share", "standard deviation, times"]
    lines = [line([*head, "trainings"]), line(["---"] * (len(head) + 1))]

    for arm, rows in sorted(found.items(), key=lambda item: -fmean(row["share"] for row in item[1])):
        cells = [averaged([row[number] for row in rows], ".3f") for number in NUMBERS]
        lines.append(line([f"`{arm}`", *cells, str(len(rows))]))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
