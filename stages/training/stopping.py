"""When a training on a reward ends before its budget: rules on what it reports, each a sign of too much optimisation.

What a rule remembers is part of a training's state, so that a resumed run stops where the whole one would have.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import nn

from stages.core.config import config
from stages.core.ranges import Count, NonNegative, Positive

DRIFTS = ("kl", "drift", "distance")
"""How policies call the distance to where they started, each in its own unit."""


@config
class Heldout:
    """Prompts that are never trained on, looked at while training goes on."""

    every: Count
    """Iterations between two looks."""
    num_samples: Count
    """Of the student's average, as it will be sampled, scored by the arm's rewards."""
    patience: Count
    """Looks in a row below the best, after which it ends."""
    tolerance: NonNegative
    """In units of reward: what is lower by no more than this is not below."""


@config
class Stop:
    """Which rules there are; null is none of that kind."""

    window: Count
    """Iterations that numbers are averaged over."""
    plateau: NonNegative | None
    """Ends where the reward of a window is not higher by this than that of the window before."""
    drift: Positive | None
    """Ends where the mean KL, drift or distance that the policy reports is above this for a window."""
    heldout: Heldout | None
    """Ends where the reward on held-out prompts falls."""

    def __post_init__(self) -> None:
        if self.plateau is None and self.drift is None and self.heldout is None:
            raise ValueError("no rule is stated: set plateau, drift or heldout, or all of stop to null")


class Probe(Protocol):
    """Samples of a network for held-out prompts."""

    forward: int
    """Samples that go through it, a look."""
    scored: int
    """Samples that the reward judges, a look."""

    def __call__(self, net: nn.Module) -> float:
        """Their mean reward."""
        ...


class Onlooker(Protocol):
    """Samples of a network that are shown now and then, and end nothing."""

    @property
    def forward(self) -> int:
        """Samples that go through it, a look."""
        ...

    @property
    def scored(self) -> int:
        """Samples that the reward judges, a look."""
        ...

    def due(self, iteration: int, *, last: bool) -> bool:
        """Whether there is a look after so many iterations."""
        ...

    def __call__(self, net: nn.Module, iteration: int) -> dict[str, float]:
        """What is reported of it."""
        ...


class Watch:
    """One training, seen by its rules."""

    def __init__(self, rules: Stop, probe: Probe | None = None) -> None:
        self.rules, self.probe = rules, probe
        self.seen: dict[str, list[float]] = {"reward": [], "drift": [], "heldout": []}
        """What the rules look back on: the last two windows, and every look at held-out prompts."""

    def looks(self, iteration: int) -> bool:
        """Whether held-out prompts are looked at after `iteration`, which counts from 1."""
        return self.rules.heldout is not None and iteration % self.rules.heldout.every == 0

    def see(self, metrics: Mapping[str, float], heldout: float | None = None) -> str | None:
        """The rule that ends the training now, given an iteration's metrics and a look, if there was one.

        ValueError where a rule looks at what the method does not report.
        """
        size, rules = self.rules.window, self.rules
        rewards = (
            self._kept("reward", _reported(metrics, ("reward",), "plateau"), 2 * size)
            if rules.plateau is not None
            else []
        )
        drifts = self._kept("drift", _reported(metrics, DRIFTS, "drift"), size) if rules.drift else []
        if heldout is not None:
            self.seen["heldout"].append(heldout)
        if rules.drift and len(drifts) == size and _mean(drifts) > rules.drift:
            return "drift"
        if rules.heldout and self._falls(rules.heldout):
            return "heldout"
        if rules.plateau is not None and len(rewards) == 2 * size:
            gain = _mean(rewards[size:]) - _mean(rewards[:size])
            return "plateau" if gain < rules.plateau else None
        return None

    def _kept(self, name: str, value: float, most: int) -> Sequence[float]:
        self.seen[name] = [*self.seen[name], value][-most:]
        return self.seen[name]

    def _falls(self, rule: Heldout) -> bool:
        looks = self.seen["heldout"]
        recent, before = looks[-rule.patience :], looks[: -rule.patience]
        return bool(before) and max(recent) < max(before) - rule.tolerance


def _reported(metrics: Mapping[str, float], names: Sequence[str], rule: str) -> float:
    for key, value in metrics.items():
        if key.rpartition("/")[2] in names:
            return float(value)
    told = ", ".join(key.rpartition("/")[2] for key in metrics)
    raise ValueError(f"stop.{rule}: this method reports no {' or '.join(names)} (but {told}); set it to null")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
