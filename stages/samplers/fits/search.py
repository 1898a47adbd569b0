"""The sampler that follows a model's flow best in so many calls: of rules and schedules, and of times that evolve.

Every rule is tried on every schedule with as many steps as fit into the calls. Then generations of children: one of the
best so far is drawn, the better the likelier, and its inner times are moved; or, of two with as many steps, one's rule
is put on the other's times. What counts is the root mean square distance to where the flow leads from the same noise.
Half of the noise is for the search; the other half chooses among its best.
Source: Liu et al. 2023 (USF, arXiv:2312.07243), whose search this is, by its code: parents are the best 15, a child is
of two parents with chance 0.3, and each time is moved with chance 0.3 by noise of 0.08.
Differs: a sampler has one rule and not a choice for each step; it is judged by its error on the flow, in place of the
Fréchet distance of 1000 samples, and no network predicts that. Rules that draw noise have no such error: they are
refused.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field as Knob
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.ranges import Guidance, NonNegativeCount, Steps
from stages.samplers import FromNoise, sample
from stages.samplers.boundary_condition import BoundaryCondition
from stages.samplers.distillation_plus import ASKS_BESIDE
from stages.samplers.field import Adaptive, Rule, blank
from stages.samplers.fits.dc_solver import followed
from stages.samplers.fits.model import Fitting
from stages.samplers.flow_map import OF_AVERAGES
from stages.samplers.schedules import AnySchedule
from stages.samplers.schedules.explicit import Explicit
from stages.samplers.spec import Sampler, calls, most_steps

PARENTS, OF_TWO, MOVED, SIZE = 15, 0.3, 0.3, 0.08
"""The best so far that have children; chances that a child has two parents, and that a time is moved; by how much."""
_NEAREST = 1e-4
"""Two times of a child are no nearer."""


@config
class FitSearch:
    """What is searched through, and how far."""

    name: Literal["search"]
    calls: Steps
    """Of the network a sample, at most; a guided one counts once."""
    guidance: Guidance
    rules: Annotated[tuple[Annotated[FromNoise, Knob(discriminator="name")], ...], Knob(min_length=1, max_length=100)]
    schedules: Annotated[tuple[AnySchedule, ...], Knob(min_length=1, max_length=100)]
    """Their own steps are of no matter: there are as many as fit into the calls."""
    generations: NonNegativeCount
    """0 is the best of rules on schedules."""
    children: Steps
    """Of a generation."""
    num_samples: Annotated[int, Knob(ge=2, le=10**6)]
    parts: Steps
    """Of each of `calls` equal steps, that Heun's rule takes for the flow's end."""

    def __post_init__(self) -> None:
        for rule in self.rules:
            why = _why_not(rule)
            if why:
                raise ValueError(f"rules: {rule.name} {why}; take it out")
        fixed = [schedule.name for schedule in self.schedules if not hasattr(schedule, "steps")]
        if fixed:
            raise ValueError(f"schedules: {fixed[0]} has no number of steps to choose; take it out")

    def fitted(self, model: Fitting) -> Sampler:
        """See `Fit`. ValueError where no rule fits into the calls."""
        velocity, half = model.under(self.guidance), len(model.noise) // 2
        truth = followed(velocity, model.noise, [1 - k / self.calls for k in range(self.calls)] + [0.0], self.parts)[-1]
        rng = model.rng("search")

        def error(of: Sampler, rows: slice) -> float:
            under = velocity.take(torch.arange(len(truth), device=truth.device)[rows])
            made = sample(under, model.noise[rows], of.spec.times, of.rule).x0
            found = (made - truth[rows]).double().square().mean().sqrt().item()
            return found if math.isfinite(found) else math.inf

        best = _kept([_Tried(each, error(each, slice(0, half))) for each in self.first()], PARENTS)
        for _ in range(self.generations):
            born = [self._child(best, rng) for _ in range(self.children)]
            best = _kept([*best, *(_Tried(each, error(each, slice(0, half))) for each in born)], PARENTS)
        return min((each.sampler for each in best), key=lambda each: error(each, slice(half, None)))

    def first(self) -> Iterator[Sampler]:
        """Every rule on every schedule. ValueError where none fits."""
        found = [self._fitting(rule, schedule) for rule in self.rules for schedule in self.schedules]
        if not any(found):
            raise ValueError(f"search: no rule steps from noise to data in calls={self.calls}; raise it")
        yield from (each for each in found if each)

    def _fitting(self, rule: Rule, schedule: AnySchedule) -> Sampler | None:
        """With as many steps as take at most `calls`."""
        for steps in range(most_steps(rule, self.calls), 0, -1):
            try:
                made = self._sampler(rule, replace(schedule, steps=steps))
            except ValueError:  # a schedule of so few steps, or a rule of others, is none
                continue
            if calls(replace(made, guidance=1.0).spec) <= self.calls:
                return made
        return None

    def _sampler(self, rule: Rule, schedule: AnySchedule) -> Sampler:
        return Sampler(rule=rule, schedule=schedule, guidance=self.guidance)  # type: ignore[arg-type]

    def _child(self, parents: "Sequence[_Tried]", rng: Generator) -> Sampler:
        first, second = (parents[_drawn(len(parents), rng)].sampler for _ in range(2))
        same = first.spec.num_steps == second.spec.num_steps
        if same and first.rule != second.rule and _chance(rng) < OF_TWO:
            return self._sampler(first.rule, second.schedule)
        times = _shaken(first.schedule.times(), rng)
        return self._sampler(first.rule, Explicit(name="explicit", at=tuple(times.tolist())))


@dataclass(frozen=True)
class _Tried:
    sampler: Sampler
    error: float


def _kept(tried: Sequence[_Tried], most: int) -> list[_Tried]:
    """The best, each once."""
    found: dict[tuple[object, ...], _Tried] = {}
    for each in sorted(tried, key=lambda each: each.error):
        found.setdefault((each.sampler.rule, each.sampler.spec.times), each)
    return list(found.values())[:most]


def _drawn(count: int, rng: Generator) -> int:
    """A place among `count`, the first `count` times as likely as the last."""
    weights = torch.arange(count, 0, -1, dtype=torch.float64)
    return int(torch.multinomial(weights, 1, generator=rng))


def _chance(rng: Generator) -> float:
    return torch.rand((), generator=rng, dtype=torch.float64).item()


def _shaken(times: Tensor, rng: Generator) -> Tensor:
    """`times` [n + 1] with some of the inner ones moved, and falling as before."""
    inner = times[1:-1]
    moved = torch.rand(inner.shape, generator=rng, dtype=torch.float64) < MOVED
    by = SIZE * torch.randn(inner.shape, generator=rng, dtype=torch.float64)
    found = (inner + moved * by).clamp(_NEAREST, 1 - _NEAREST).sort(descending=True).values
    if len(found) and (found.diff().neg() < _NEAREST).any():
        return times
    return torch.cat([times[:1], found, times[-1:]])


def _why_not(rule: Rule) -> str | None:
    """Why a rule has no error on the flow, if so."""
    if isinstance(rule, Adaptive):
        return "calls the network as often as a sample needs"
    if rule.name in OF_AVERAGES:
        return "asks for averages, which no teacher answers"
    if rule.name in ASKS_BESIDE:
        return "asks another network too, which no teacher carries"
    if isinstance(rule, BoundaryCondition):
        return "begins at a noise of its own"
    drawn = list[int]()

    def draw(node: int, x: Tensor) -> Tensor:
        drawn.append(node)
        return torch.zeros_like(x)

    sample(lambda x, _t, **_until: x, blank(rule), (1.0, 0.5, 0.25, 0.0), rule, rng=draw)
    return "draws noise, so that it does not follow the flow" if drawn else None
