"""How often samples show what their prompts ask for: all attributes at once, and each alone.

A share of n independent samples carries Wilson's interval (1927), which keeps its level near 0 and 1 and
for small n.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from torch import Tensor

LEVEL = 0.95


@dataclass(frozen=True)
class Share:
    """A share of `count` samples, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Score:
    """`overall`: all attributes right. `accuracy`: each attribute by name."""

    overall: Share
    accuracy: Mapping[str, Share]


def score(right: Tensor, attributes: Sequence[str]) -> Score:
    """Scores of N samples from bool [N, A], whether each has each of `attributes` as asked."""
    if right.dim() != 2 or right.shape[1] != len(attributes):
        raise ValueError(f"score: a verdict of shape {tuple(right.shape)} must be [N, {len(attributes)}]")
    counts = dict(zip(attributes, right.sum(dim=0).tolist(), strict=True))
    accuracy = {name: share(hits, len(right)) for name, hits in counts.items()}
    return Score(overall=share(int(right.all(dim=1).sum()), len(right)), accuracy=accuracy)


def share(successes: int, count: int) -> Share:
    """successes / count with Wilson's 95 % interval; ValueError unless 0 <= successes <= count, count > 0."""
    if not 0 <= successes <= count or count == 0:
        raise ValueError(f"a share needs 0 <= successes <= count and count > 0, got {successes} of {count}")
    z2 = NormalDist().inv_cdf(0.5 + LEVEL / 2) ** 2
    p = successes / count
    centre = (p + z2 / (2 * count)) / (1 + z2 / count)
    reach = math.sqrt(z2 * (p * (1 - p) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    return Share(value=p, low=max(0.0, centre - reach), high=min(1.0, centre + reach), count=count)
