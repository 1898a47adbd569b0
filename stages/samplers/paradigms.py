"""ParaDiGMS: DDIM by Picard's iteration, a window of steps in one batched call: more calls, in fewer rounds.

A round evaluates the states that are guessed at all nodes of the window, and guesses anew: the window's first state and
the sum of the steps from there. The next node's is exact then; the window moves on past the nodes whose guess changed
by no more than the tolerance, and the one behind these. What enters it is guessed to be the last state in it.
Source: Shih et al. 2023 (arXiv:2305.16317), algorithm 1, and its code. Noise is drawn for a node once, and the same in
every round. The change is compared with the standard deviation of a step of DDPM, per element.
Differs: each sample has a window of its own, so that batches leave no trace: one that is ahead waits. The last step, to
data, which has no noise, is judged as the step before it.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import NonNegative, Steps, Unit
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import KEPT, Grid, Pair


@config
class Paradigms:
    """How far ahead it looks, and what error is borne."""

    name: Literal["paradigms"]
    window: Steps
    """Nodes that are evaluated together; 1 is DDIM, one after another."""
    tolerance: NonNegative
    """In standard deviations of a step's noise; 0 gives the samples of DDIM, to rounding."""
    noise_level: Unit
    """Eta: 0 is the ODE, 1 is DDPM."""

    def most_calls(self, num_steps: int) -> int:
        """Of a sample in so many steps: a round for each."""
        return sum(min(self.window, num_steps - i) for i in range(num_steps))

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1: a round for the samples that are not there yet.

        Remembers guesses and noise of the nodes ahead, [B, window - 1, ...], and how many of them stand.
        """
        x, plan, num_steps = state.x, _plan(self, field.grid), field.grid.num_steps
        size = min(self.window, num_steps - i)
        guesses = _filled(state.memory.get("guesses", x.new_zeros(len(x), 0, *x.shape[1:])), x, size)
        noise = state.memory.get("noise", x.new_zeros(len(x), 0, *x.shape[1:]))
        for node in range(i + noise.shape[1], i + size):
            std = plan.std[node]
            drawn = std * draw(node + 1, x) if std > 0 else torch.zeros_like(x)
            noise = torch.cat([noise, drawn[:, None]], dim=1)
        ready = state.memory.get("ready", torch.zeros(len(x), dtype=torch.int64, device=x.device))
        rows = (ready == 0).nonzero()[:, 0]
        if len(rows):
            found = self._guessed(field, x[rows], guesses[rows], noise[rows], i, rows)
            change = (found - guesses[rows]).reshape(*found.shape[:2], -1).square().mean(dim=2)
            limit = self.tolerance**2 * torch.tensor(plan.variance[i : i + size], dtype=change.dtype, device=x.device)
            stands = (change <= limit).long().cumprod(dim=1).sum(dim=1)
            guesses = guesses.index_copy(0, rows, found)
            ready = ready.index_copy(0, rows, (stands + 1).clamp_max(size))
        return State(guesses[:, 0], {"guesses": guesses[:, 1:], "noise": noise[:, 1:], "ready": ready - 1})

    def _guessed(self, field: Field, x: Tensor, guesses: Tensor, noise: Tensor, i: int, rows: Tensor) -> Tensor:
        """[n, window, ...]: states at nodes i + 1 on, from x at node i by steps from the guesses."""
        count, size = guesses.shape[:2]
        states = torch.cat([x[:, None], guesses[:, :-1]], dim=1)
        nodes = torch.arange(i, i + size)
        times = field.grid.times[nodes].to(x).repeat(count)
        v = field.anywhere(states.flatten(0, 1), times, rows.repeat_interleave(size)).unflatten(0, (count, size))
        weights = torch.tensor(_plan(self, field.grid).weights, dtype=x.dtype, device=x.device)[nodes]
        of_x, of_v = (weights[:, k].reshape(-1, *(1,) * (x.dim() - 1)) for k in (0, 1))
        return x[:, None] + ((of_x - 1) * states + of_v * v + noise).cumsum(dim=1)


@dataclass(frozen=True)
class _Plan:
    """Of each step: weights of x and v, the noise's std, and the variance that changes are compared with."""

    weights: tuple[Pair, ...]
    std: tuple[float, ...]
    variance: tuple[float, ...]


@lru_cache(KEPT)
def _plan(rule: Paradigms, grid: Grid) -> _Plan:
    scales = [grid.noisy(i, 1.0)[2] for i in range(grid.num_steps)]
    std = [rule.noise_level * scale for scale in scales]
    weights = [
        grid.moved(i, (grid.sigma[i + 1] ** 2 - each**2) ** 0.5 if each < grid.sigma[i + 1] else 0.0)
        for i, each in enumerate(std)
    ]
    if grid.sigma[-1] == 0:
        scales[-1] = scales[-2] if grid.num_steps > 1 else 1.0
    return _Plan(tuple(weights), tuple(std), tuple(scale**2 for scale in scales))


def _filled(guesses: Tensor, x: Tensor, size: int) -> Tensor:
    """`guesses` and the last of them, or x, again up to `size` [B, size, ...]."""
    last = guesses[:, -1:] if guesses.shape[1] else x[:, None]
    return torch.cat([guesses, *(last,) * (size - guesses.shape[1])], dim=1)[:, :size]
