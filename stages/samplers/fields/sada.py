"""SADA: a sample skips the network where its trajectory bends the way that extrapolation expects.

The state at a node is extrapolated from the last three slopes; where what the rule has instead is off against the
slopes' second difference, mean[(x - extrapolated) (v_0 - 2 v_1 + v_2)] <= 0, the data prediction is that of the
extrapolated state with the last noise prediction. From `late` on the network is called at intervals, and between them
the data prediction is the polynomial in t through the last four.
Source: Jiang et al. 2025 (arXiv:2507.17135) and its code.
Differs: 5/6, 5/6, -2/3 (`paper`) is of second order on even steps, and as the code has them, 5/8, 3/4, -3/8, of first.
Tokens are not pruned: where the test fails, the whole network is called. Each sample decides for itself. The first four
nodes call it, whatever `since` is.
"""

from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.matching import per_sample
from stages.core.path import expand
from stages.core.ranges import NonNegativeCount, Steps, Unit
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs, OfSamples
from stages.samplers.grid import Grid, combine
from stages.samplers.prompted import Prompted

SLOPES = MappingProxyType({"paper": (5 / 6, 5 / 6, -2 / 3), "as_published": (5 / 8, 3 / 4, -3 / 8)})
"""Weights of the last three slopes, the newest first."""
_THROUGH = 4


@config
class SADA(Knobs):
    """Where in a run, and how often."""

    name: Literal["sada"]
    extrapolator: Literal["paper", "as_published"]
    since: Unit
    """Shares of the steps: before this one, all call the network;"""
    late: Unit
    """from this one on, calls are at intervals;"""
    until: Unit
    """and after this one, all call it again."""
    most: NonNegativeCount
    """Nodes in a row that a sample skips, at most; 0 skips none before `late`."""
    interval: Steps
    """Of so many nodes after `late`, one calls the network."""

    fixed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.since <= self.late <= self.until:
            raise ValueError(f"since={self.since}, late={self.late} and until={self.until} must rise")

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`."""
        return _Skipping(self, network, grid, x)


class _Skipping(OfSamples):
    def __init__(self, knobs: SADA, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._knobs = knobs
        self._node = -1

    def velocity(self, x: Tensor, i: int) -> Tensor:
        kept, share = self.memory, i / self.grid.num_steps
        skipped = kept.get("skipped", torch.zeros(len(x), dtype=torch.int64, device=x.device))
        called, data = torch.ones(len(x), dtype=torch.bool, device=x.device), x
        if f"data{_THROUGH - 1}" in kept and i > self._node and self._knobs.since <= share <= self._knobs.until:
            if share < self._knobs.late:
                data, is_steady = self._extrapolated(x, i)
                called = ~is_steady | (skipped >= self._knobs.most)
            else:
                data, called = self._through(i), skipped >= self._knobs.interval - 1
        weights = self.grid.data[i]
        v = self.answered(x, i, called, (data - weights[0] * x) / weights[1])
        self._remember(x, v, i, called, skipped)
        return v

    def _extrapolated(self, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """D of the extrapolated state with the last noise prediction, and whether the state is where it may skip."""
        slopes = [self.memory[f"slope{age}"] for age in range(3)]
        length = (self.grid.times[self._node] - self.grid.times[i]).item()
        mean = sum(weight * slope for weight, slope in zip(SLOPES[self._knobs.extrapolator], slopes, strict=True))
        ahead = self.memory["state"] - length * mean
        bend = slopes[0] - 2 * slopes[1] + slopes[2]
        data = (ahead - self.grid.sigma[i] * self.memory["noise"]) / self.grid.alpha[i]
        return data, per_sample((x - ahead) * bend) <= 0

    def _through(self, i: int) -> Tensor:
        """D by the polynomial through those of the last calls, whose times are each sample's own."""
        here, total = self.grid.times[i].item(), torch.zeros_like(self.memory["state"])
        times = [self.memory[f"time{age}"] for age in range(_THROUGH)]
        for age in range(_THROUGH):
            weight = torch.ones_like(times[age])
            for other in set(range(_THROUGH)) - {age}:
                weight = weight * (here - times[other]) / (times[age] - times[other])
            total = total + expand(weight, total) * self.memory[f"data{age}"]
        return total

    def _remember(self, x: Tensor, v: Tensor, i: int, called: Tensor, skipped: Tensor) -> None:
        kept, here = self.memory, expand(called, x)
        again = i == self._node  # a rule that looks ahead asks twice at a node
        made = {"state": x, "slope0": v, "skipped": torch.where(called, 0, skipped + 1)}
        for age in (1, 2):
            older = f"slope{age if again else age - 1}"
            if older in kept:
                made[f"slope{age}"] = kept[older]
        noise = combine(self.grid.noise[i], x, v)
        made["noise"] = torch.where(here, noise, kept["noise"]) if "noise" in kept else noise
        made |= self._calls(x, v, i, called, again)
        self.memory, self._node = made, i

    def _calls(self, x: Tensor, v: Tensor, i: int, called: Tensor, again: bool) -> dict[str, Tensor]:
        """D and the times of the last calls, newest first, in which samples differ."""
        data, time = combine(self.grid.data[i], x, v), x.new_full((len(x),), self.grid.times[i].item())
        kept, made = self.memory, dict[str, Tensor]()
        count = 1 + sum(name.startswith("data") for name in kept) - again
        for age in range(min(max(count, 1), _THROUGH)):
            older = age if again else age - 1
            new = (data, time) if age == 0 else (kept[f"data{older}"], kept[f"time{older}"])
            old = (kept.get(f"data{age}", new[0]), kept.get(f"time{age}", new[1]))
            made[f"data{age}"] = torch.where(expand(called, x), new[0], old[0])
            made[f"time{age}"] = torch.where(called, new[1], old[1])
        return made
