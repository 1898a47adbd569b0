"""Transitions with a density, from a node of a grid to the next: for policies, roll-outs, and as rules of a sampler.

On the flow path all of them are N(a x + b v, std^2), since data D = x - t v and noise e = x + (1 - t) v are. Two kinds:
the flow ODE made stochastic without moving its marginals, dx = [v + g^2/(2t) (x + (1-t) v)] dt + g dw for any g(t),
by a step of Euler-Maruyama (`diffused`); and noise put in the place of some of e or D, which is exact at the end of any
step and follows the marginals only as far as its file says.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from stages.core.matching import per_sample
from stages.core.path import LINEAR, expand
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import KEPT, Grid, combine


@dataclass(frozen=True)
class Transition:
    """From t down to t_next, N(x_weight x + v_weight v, std^2); every field is [B]."""

    x_weight: Tensor
    v_weight: Tensor
    std: Tensor

    def mean(self, x: Tensor, v: Tensor) -> Tensor:
        """[B, ...]: where the step lands on average from x with velocity v."""
        return expand(self.x_weight, x) * x + expand(self.v_weight, x) * v

    def log_prob(self, x_next: Tensor, mean: Tensor) -> Tensor:
        """[B]: log density at x_next, **mean** over elements, without constants (ratios cancel them).

        ValueError for a step without noise, which has no density.
        """
        self._noisy()
        return -per_sample((x_next - mean).square()) / (2 * self.std.square())

    def kl(self, v: Tensor, v_reference: Tensor) -> Tensor:
        """[B]: KL between this step under two velocities at the same x, exact, **mean** over elements.

        ValueError for a step without noise.
        """
        self._noisy()
        return (self.v_weight / self.std).square() * per_sample((v - v_reference).square()) / 2

    def _noisy(self) -> None:
        if not bool((self.std > 0).all()):
            raise ValueError("a transition without noise has no density: leave out the step to data, raise noise_level")


OF_VELOCITIES = ("flow_sde", "dance_sde", "ddim")
"""Kernels that keep a law only for the mean velocity E[eps - x0 | x_t] of independent noise and data."""


class Transitions(Protocol):
    """A kernel: its knobs, and the transition that they make of a step."""

    @property
    def name(self) -> str:
        """Of the rule that it is."""
        ...

    def transition(self, times: Tensor, index: Tensor) -> Transition:
        """From times[index] to times[index + 1], for index [B] into a falling grid [n + 1] of the flow path."""
        ...


class Kernel:
    """What makes a kernel a step rule: its mean and fresh noise; the last step, to data, is the ODE's."""

    def step(self: Transitions, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1; `draw(i + 1, x)` gives the noise there. ValueError off the flow path."""
        x_weight, v_weight, std = weights_of(self, field.grid)[i]
        mean = combine((x_weight, v_weight), state.x, field.velocity(state.x, i))
        return State(mean if std == 0 else combine((1.0, std), mean, draw(i + 1, mean)))


@lru_cache(KEPT)
def weights_of(kernel: Transitions, grid: Grid) -> tuple[tuple[float, float, float], ...]:
    """Weights of x and of v, and the standard deviation, of each step, 0 to data. ValueError off the flow path."""
    if grid.path != LINEAR:
        raise ValueError(f"sampler rule {kernel.name!r} steps along the {LINEAR.name} path, not along {grid.path.name}")
    found = kernel.transition(grid.times, torch.arange(grid.num_steps))
    rows = list(zip(found.x_weight.tolist(), found.v_weight.tolist(), found.std.tolist(), strict=True))
    if grid.sigma[-1] == 0:
        rows[-1] = (*grid.transfer[-1], 0.0)
    return tuple(rows)


def diffused(t: Tensor, t_next: Tensor, variance_rate: Tensor) -> Transition:
    """The step of Euler-Maruyama from t to t_next [B] with g^2 = `variance_rate` [B]."""
    h = t - t_next
    return Transition(
        x_weight=1 - variance_rate * h / (2 * t),
        v_weight=-h * (1 + variance_rate * (1 - t) / (2 * t)),
        std=(variance_rate * h).sqrt(),
    )


def grid_like(times: tuple[float, ...], like: Tensor) -> Tensor:
    """A sampler's times as a tensor of the type and on the device of `like`."""
    return torch.tensor(times, dtype=like.dtype, device=like.device)
