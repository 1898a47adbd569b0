"""Gradients through a roll-out by Euler's steps, of which only one call has a graph at a time.

With a loss L of where it ends, and costs c of its calls, the slope a = dL/dx goes back from data to noise,
 a_k = d/dx [<a_{k+1}, x - h v(x, t)> + c(x, v, t)],  dL/dtheta = the sum over steps of the same by theta
- `discrete`: at the states x_k of the roll-out, which are kept: autograd's own gradient, a call at a time
- `continuous`: at x_{k+1}, from which the state is carried back by x_k = x_{k+1} + h v too, so that nothing is kept; of
  order 1 in the steps, as state and slope are Euler's of an ODE's and its adjoint's (AdjointDPM, arXiv:2307.10711)
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from stages.core.types import Cond, Velocity
from stages.samplers.rollout import at, euler_step, moved

Adjoint = Literal["continuous", "discrete"]
Call = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(x [B, ...], t [B]) -> the velocity there [B, ...] and what the call costs, a scalar."""


@torch.no_grad()
def carried(velocity: Velocity, x: Tensor, times: Sequence[float], cond: Cond, adjoint: Adjoint) -> list[Tensor]:
    """The states that `swept` needs, by Euler's steps from x at times[0]: all of them, or the last alone."""
    states = [x]
    for time, then in pairwise(times):
        x = euler_step(velocity, x, at(time, x), at(then, x), cond)
        states = [*states, x] if adjoint == "discrete" else [x]
    return states


def swept(
    call: Call,
    states: Sequence[Tensor],
    times: Sequence[float],
    slope: Tensor,
    parameters: Sequence[Tensor],
    *,
    weight: float = 1.0,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """dL/dx [B, ...] at times[0], dL/dtheta for theta in `parameters`, and the sum of costs, of which L has `weight`.

    `states` are what `carried` gave, and `slope` is the derivative of the rest of L by the last of them.
    """
    gradient = [torch.zeros_like(p) for p in parameters]
    x, costs, is_kept = states[-1], slope.new_zeros(()), len(states) == len(times)
    for k in reversed(range(len(times) - 1)):
        now, then = at(times[k], x), at(times[k + 1], x)
        here = (states[k] if is_kept else x).detach().requires_grad_()
        with torch.enable_grad():
            v, cost = call(here, now if is_kept else then)
            pulled = (slope * moved(here, v, now, then)).sum() + weight * cost
            slope, *each = torch.autograd.grad(pulled, [here, *parameters], allow_unused=True)
        gradient = [before if more is None else before + more for before, more in zip(gradient, each, strict=True)]
        x, costs = moved(here, v, then, now).detach(), costs + cost.detach()
    return slope, gradient, costs


def standing_for(value: Tensor, parameters: Sequence[Tensor], gradient: Sequence[Tensor]) -> Tensor:
    """A scalar that is `value`, and whose derivative by `parameters` is `gradient`."""
    pulls = [((p - p.detach()) * g).sum() for p, g in zip(parameters, gradient, strict=True)]
    return value.detach() + torch.stack(pulls).sum()
