"""A noisy process from noise to data, a step at a time, for searches that choose among its next states.

One of two: a kernel on the sampler's own grid, or the variance-preserving SDE that a flow model is switched to, since
that is more varied from step to step (Kim et al. 2025, arXiv:2503.19385). Either is x' = a x + b v + s z, with v the
flow's velocity at (x / scale, time).

Of the switch: signal-to-noise ratios are matched, t_s = sigma_s / (alpha_s + sigma_s) and scale_s = alpha_s + sigma_s,
on times s that are warped to sqrt(1 - (1 - s)^2); its noise is g(s) = 3 s^2.
Follows: https://github.com/KAIST-Visual-AI-Group/Flow-Inference-Time-Scaling (MIT), re-derived; the last step is to the
prediction of the data, without noise.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.core.path import VP_LINEAR, Path, expand
from stages.samplers import Rule
from stages.samplers.grid import build
from stages.samplers.kernels import weights_of
from stages.steering.task import Task

Process = Literal["rule", "vp"]
"""The sampler's rule, which has to be a kernel, or the switch."""
Node = int | Tensor
"""Of every row, or [n], of each."""


@dataclass(frozen=True)
class Chain:
    """Step i goes from node i to node i + 1; after the last there is data."""

    times: Tensor
    """[n]: flow time at which the network is called at node i."""
    scale: Tensor
    """[n]: the state at node i is so many times the flow's."""
    weights: Tensor
    """[n, 3]: a, b and s of step i; the last s is 0."""

    @property
    def num_steps(self) -> int:
        """n."""
        return len(self.times)

    def look(self, task: Task, x: Tensor, node: Node, of: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity, and the data that it predicts, of states [n, ...] at nodes before the last: n calls."""
        time, scale = (self._at(values, node, x) for values in (self.times, self.scale))
        flow = x / expand(scale, x)
        v = task.ask(flow, time, of)
        return v, flow - expand(time, x) * v

    def mean(self, x: Tensor, v: Tensor, node: Node) -> Tensor:
        """Where the step from `node` lands on average."""
        a, b = (expand(self._at(self.weights[:, k], node, x), x) for k in (0, 1))
        return a * x + b * v

    def spread(self, x: Tensor, node: Node) -> Tensor:
        """[n, 1, ...]: its standard deviation."""
        return expand(self._at(self.weights[:, 2], node, x), x)

    @staticmethod
    def _at(values: Tensor, node: Node, x: Tensor) -> Tensor:
        found = values.to(x)[node]
        return found if isinstance(node, Tensor) else found.expand(len(x))


def chain(task: Task, process: Process) -> Chain:
    """The process of a task: its rule, or the switch with as many steps."""
    if process == "vp":
        return switched(len(task.times) - 1)
    grid = task.grid
    return Chain(grid.times[:-1], torch.ones_like(grid.times[:-1]), torch.tensor(weights_of(task.rule, grid)))


def why_no_kernel(rule: Rule, process: Process) -> str | None:
    """Why a process cannot be a rule's: it has no density between two nodes."""
    if process == "vp" or hasattr(rule, "transition"):
        return None
    return "it is no kernel, whose next state can be drawn anew; take flow_sde, ddim, or process: vp"


def switched(steps: int, path: Path = VP_LINEAR) -> Chain:
    """The variance-preserving SDE in `steps`, as states of `path` and calls of a flow model."""
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    nodes = (1 - (1 - even) ** 2).sqrt()
    grid = build(path, nodes)
    alpha, sigma = (torch.tensor(values, dtype=torch.float64)[:-1] for values in (grid.alpha, grid.sigma))
    s, h = nodes[:-1], -nodes.diff()
    scale = alpha + sigma
    times = sigma / scale
    noise_rate = 9 * s**4  # g^2
    data_x, noise_x, noise_v = (
        torch.tensor(column, dtype=torch.float64)
        for column in zip(*((d[0], *e) for d, e in zip(grid.data[:-1], grid.noise[:-1], strict=True)), strict=True)
    )
    det = alpha / noise_v
    alpha_slope, sigma_slope = -noise_x * det, data_x * det
    # x' = x - h (alpha' D + sigma' e + g^2 e / (2 sigma)); here D = x / scale - t v and e = x / scale + (1 - t) v.
    of_data, of_noise = -h * alpha_slope, -h * (sigma_slope + noise_rate / (2 * sigma))
    a = 1 + (of_data + of_noise) / scale
    b = -of_data * times + of_noise * (1 - times)
    spread = noise_rate.mul(h).sqrt()
    a[-1], b[-1], spread[-1] = 1 / scale[-1], -times[-1], 0
    return Chain(times, scale, torch.stack([a, b, spread], dim=1))
