"""Gotta Go Fast: the reverse SDE by steps that each sample chooses for itself, by an error that it estimates.

Stochastic Heun with Euler-Maruyama inside: of the same noise both are made, and half their difference is the error. A
step is accepted where that is, root mean square over elements, within the tolerance; the next is 0.9 q^-0.9 times as
long, q being the error's ratio to it. Two calls an attempt.
Source: Jolicoeur-Martineau et al. 2021 (arXiv:2105.14080), algorithm 1, and its code. A refused attempt draws anew, as
there, so that noise of small error is favoured: on Gaussian data of spread 0.384 samples of 64 elements have that
within 0.012, and samples of one have 0.49, at any tolerance. It is for pictures.
Differs: the clock is log(sigma / alpha), on which the reverse SDE of the variance preserving path has bounded terms,
dz = (-s^2 z + 2 s e) dlog + sqrt(2) s dw with s = sigma / sqrt(alpha^2 + sigma^2); so a step's length is a ratio of
levels. Steps end at the grid's nodes, as few as one wants. From alpha = 0 the state is taken to the level `hi` by
Euler's rule, and the last step, to data, is the data prediction: one call each.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.matching import per_sample
from stages.core.path import LINEAR, expand, noise_from_velocity
from stages.core.ranges import NonNegative, Positive, Steps
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import MAX_RHO, build, combine

Slope = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(z [n, ...], clock [n]) -> the drift as the clock falls, and the rate of its noise [n]."""
_SAFETY, _POWER = 0.9, 0.9
_LONGEST = 20.0
"""Of a step: more than from any first level to any last."""


@config
class GottaGoFast:
    """What error is borne."""

    name: Literal["gotta_go_fast"]
    absolute: Positive
    """In the data's units, of which images have 2: 2 / 256 as published."""
    relative: NonNegative
    """Of the state's elements: 0.01 to 0.1 as published."""
    first: Positive
    """The first step, in log(sigma / alpha)."""
    hi: Positive
    """The first level, sigma / alpha, for data of about unit size."""
    most: Steps
    """Attempts that a sample may make between two nodes."""

    def most_calls(self, num_steps: int) -> int:
        """Of a sample in so many steps."""
        return 2 + 2 * self.most * num_steps

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1; remembers each sample's next step, and the last first-order guess.

        Draws for numbers from num_steps + 1 on. ValueError off the flow path, or where a sample has made all attempts.
        """
        grid, x = field.grid, state.x
        if grid.path != LINEAR:
            raise ValueError(
                f"sampler rule {self.name!r} steps along the {LINEAR.name} path, not along {grid.path.name}"
            )
        if grid.sigma[i + 1] == 0:
            return State(combine(grid.transfer[i], x, field.velocity(x, i)))
        start, end = min(grid.rho[i], self.hi), grid.rho[i + 1]
        if grid.rho[i] > MAX_RHO:
            if end >= self.hi:
                return State(combine(grid.transfer[i], x, field.velocity(x, i)))
            first = build(LINEAR, [1.0, self.hi / (1 + self.hi)])
            x = combine(first.transfer[0], x, field.velocity(x, i))
        elif grid.rho[i] > self.hi:
            start = grid.rho[i]
        return self._crossed(field, State(x, state.memory), i, (math.log(start), math.log(end)), draw)

    def _crossed(self, field: Field, state: State, i: int, ends: tuple[float, float], draw: Draw) -> State:
        x = state.x
        z = x / expand(_size(_level(x, ends[0])), x)
        size = state.memory.get("size", torch.full_like(_level(x, 0.0), self.first))
        previous, left = state.memory.get("previous", z), torch.full_like(size, ends[0] - ends[1])
        first_draw = field.grid.num_steps + 1 + i * self.most
        for attempt in range(self.most):
            rows = (left > 0).nonzero()[:, 0]
            if not len(rows):
                break
            noise = draw(first_draw + attempt, x)[rows]
            step = torch.minimum(size[rows], left[rows])
            guess, better = self._attempted(field, z[rows], ends[1] + left[rows], step, noise, rows)
            error = self._error(better - guess, guess, previous[rows])
            fine = error <= 1
            kept = rows[fine]
            z, previous = z.index_copy(0, kept, better[fine]), previous.index_copy(0, kept, guess[fine])
            whole = step == left[rows]
            left = left.index_copy(0, kept, torch.where(whole, 0.0, left[rows] - step)[fine])
            longer = (_SAFETY * step * error.clamp_min(1e-6) ** -_POWER).clamp_max(_LONGEST)
            size = size.index_copy(0, rows, longer)
        if bool((left > 0).any()):
            raise ValueError(
                f"sampler rule gotta_go_fast: a sample is not at node {i + 1} after most={self.most} attempts; raise "
                "it, or the tolerances"
            )
        x = expand(_size(_level(x, ends[1])), x) * z
        return State(x, {"size": size, "previous": previous})

    def _attempted(
        self, field: Field, z: Tensor, clock: Tensor, step: Tensor, noise: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Where Euler-Maruyama and Heun's rule go from z [n, ...] at `clock` [n] by `step` [n]."""

        def slope(z: Tensor, clock: Tensor) -> tuple[Tensor, Tensor]:
            """The drift down the clock, and the noise's rate [n]."""
            rho = clock.exp()
            t, sine = rho / (1 + rho), (rho.square() / (1 + rho.square())).sqrt()
            x = expand(_size(clock), z) * z
            e = noise_from_velocity(x, field.anywhere(x, t, rows), t)
            return expand(sine.square(), z) * z - expand(2 * sine, z) * e, math.sqrt(2) * sine

        return heun(slope, z, clock, step, noise)

    def _error(self, gap: Tensor, guess: Tensor, previous: Tensor) -> Tensor:
        """[n]: root mean square of the error over the tolerance."""
        borne = (self.relative * torch.maximum(guess.abs(), previous.abs())).clamp_min(self.absolute)
        return per_sample((gap / borne).square()).sqrt()


def heun(slope: Slope, z: Tensor, clock: Tensor, step: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Euler-Maruyama's end and that of stochastic Heun, with the same noise; their gap is half of K2 - K1."""
    by, root = expand(step, z), expand(step.sqrt(), z)
    drift, rate = slope(z, clock)
    guess = z + by * drift + root * expand(rate, z) * noise
    drift_ahead, rate_ahead = slope(guess, clock - step)
    ahead = z + by * drift_ahead + root * expand(rate_ahead, z) * noise
    return guess, 0.5 * (guess + ahead)


def _level(x: Tensor, clock: float) -> Tensor:
    return torch.full((len(x),), clock, dtype=x.dtype, device=x.device)


def _size(clock: Tensor) -> Tensor:
    """sqrt(alpha^2 + sigma^2) on the flow path, [n]."""
    rho = clock.exp()
    return (1 + rho.square()).sqrt() / (1 + rho)
