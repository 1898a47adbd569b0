"""When a training on a reward ends before its budget: rules on what it reports and on looks at its samples, each a sign
of too much optimisation.

What a rule remembers is part of a training's state, so that a resumed run stops where the whole one would have.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Protocol

from pydantic import Field
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
class Distance:
    """Samples for what training images show, compared with these now and then: a budget of distance."""

    every: Count
    """Iterations between two looks."""
    num_samples: Annotated[int, Field(ge=2, le=10**6)]
    """Of the student's average, as it will be sampled, and of training images. Few of them are farther apart."""
    most: Positive
    """The Fréchet distance, by the verifier's features and in their squared units, above which it ends."""


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
    distance: Distance | None
    """Ends where samples are too far from the training images."""

    def __post_init__(self) -> None:
        if self.plateau is None and self.drift is None and not self.looks:
            raise ValueError("no rule is stated: set plateau, drift, heldout or distance, or all of stop to null")

    @property
    def looks(self) -> Mapping[str, Heldout | Distance]:
        """The rules that look at samples, by name."""
        stated: dict[str, Heldout | Distance | None] = {"heldout": self.heldout, "distance": self.distance}
        return {name: rule for name, rule in stated.items() if rule}


class Probe(Protocol):
    """Samples of a network for some prompts."""

    forward: int
    """Samples that go through it, a look."""
    scored: int
    """Samples that the reward judges, a look."""

    def __call__(self, net: nn.Module) -> float:
        """One number of them."""
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

    def __init__(self, rules: Stop, probes: Mapping[str, Probe] = MappingProxyType({})) -> None:
        """`probes` by the names of the rules that look."""
        self.rules, self.probes = rules, probes
        self.seen: dict[str, list[float]] = {"reward": [], "drift": [], "heldout": []}
        """What the rules look back on: the last two windows, and every look at held-out prompts."""

    def due(self, iteration: int) -> list[str]:
        """The looks that are taken after `iteration`, which counts from 1."""
        return [name for name, rule in self.rules.looks.items() if iteration % rule.every == 0]

    def see(self, metrics: Mapping[str, float], looks: Mapping[str, float] = MappingProxyType({})) -> str | None:
        """The rule that ends the training now, given an iteration's metrics and what looks found, if there were any.

        ValueError where a rule looks at what the method does not report.
        """
        size, rules = self.rules.window, self.rules
        rewards = (
            self._kept("reward", _reported(metrics, ("reward",), "plateau"), 2 * size)
            if rules.plateau is not None
            else []
        )
        drifts = self._kept("drift", _reported(metrics, DRIFTS, "drift"), size) if rules.drift else []
        if "heldout" in looks:
            self.seen["heldout"].append(looks["heldout"])
        if rules.drift and len(drifts) == size and _mean(drifts) > rules.drift:
            return "drift"
        if rules.distance and looks.get("distance", 0.0) > rules.distance.most:
            return "distance"
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
