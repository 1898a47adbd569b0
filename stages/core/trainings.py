"""What several trainings of one method tell of it: a mean with its interval, and whether two methods differ.

An interval over samples says how well one model is known; another training of it would be another model. Both assume
that trainings are independent and near normal: Student 1908 for a mean, Welch 1947 for the difference of two.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A number over `count` trainings, 2 or more."""

    mean: float
    deviation: float
    """Of single trainings, with count - 1 degrees of freedom."""
    count: int

    @property
    def reach(self) -> float:
        """From the mean to either end of its 95 % interval, by Student's t."""
        from scipy.special import stdtrit

        return float(stdtrit(self.count - 1, 0.5 + LEVEL / 2)) * self.deviation / math.sqrt(self.count)

    @property
    def low(self) -> float:
        """The interval's lower end; beyond what the number can be, where few trainings differ much."""
        return self.mean - self.reach

    @property
    def high(self) -> float:
        """Its upper end."""
        return self.mean + self.reach


def spread(values: Sequence[float]) -> Spread:
    """Of one number a training; ValueError for a single one, which has none."""
    if len(values) < 2:
        raise ValueError(f"a spread over trainings needs two or more, got {len(values)}")
    mean = values[0] if len(set(values)) == 1 else fmean(values)  # a sum of equals, divided, may be beside them
    return Spread(mean=mean, deviation=stdev(values, mean), count=len(values))


def welch(one: Spread, other: Spread) -> float:
    """p of equal means, two-sided, by Welch's t-test; spreads may differ."""
    from scipy.special import stdtr

    parts = [each.deviation**2 / each.count for each in (one, other)]
    gap, variance = abs(one.mean - other.mean), sum(parts)
    if variance == 0:
        return float(gap == 0)
    freedom = variance**2 / sum(part**2 / (each.count - 1) for part, each in zip(parts, (one, other), strict=True))
    return float(2 * stdtr(freedom, -gap / math.sqrt(variance)))


def student(one: Spread, value: float) -> float:
    """p of a mean that is `value`, two-sided, by Student's t-test: Welch's against what has no spread."""
    return welch(one, Spread(mean=value, deviation=0.0, count=one.count))


def fisher(one: Spread, other: Spread) -> float:
    """p of equal deviations, two-sided, by Fisher's F-test, which leans on normal trainings more than the others do."""
    from scipy.special import fdtr

    freedom = one.count - 1, other.count - 1
    if other.deviation == 0:
        return float(one.deviation == 0)
    below = float(fdtr(*freedom, (one.deviation / other.deviation) ** 2))
    return 2 * min(below, 1 - below)


def compared(one: Spread | None, other: Spread | None) -> str:
    """In words, whether two methods differ; None stands for one that was trained once."""
    if one is None or other is None:
        who = "one training each" if one is other else "one training on a side"
        return f"{who}: trainings cannot be compared, samples only"
    return said(welch(one, other), f"over {one.count} and {other.count} trainings")


def said(p: float, of: str) -> str:
    """In words, what a test's p says `of` what it was told."""
    return f"{'differ' if p < 1 - LEVEL else 'cannot be told apart'} (p = {p:.2g} {of})"
