"""Unchanged: a sample's answer is reused for as long as no place of it has been unmasked; its samples are the same.

Networks of tokens do not look at the time, and expect the same of the same state. A step of N even ones by the rule
`masked` unmasks none of L places with probability q = (1 - 1 / N)^L. So N (1 - q) steps are expected to unmask one: for
the digits' 64 places 15.743, 40.641, 50.516 and 62.070 of 16, 64, 128 and 1024. There are q more calls than that, since
the first state is always asked for, and the last never: 15.759, 41.006, 51.122 and 63.010.
Source: the cached sampler of MDLM, Sahoo et al. 2024 (arXiv:2406.07524), whose code reuses an answer where a whole
batch stayed as it was. Differs: each sample decides for itself.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs, OfSamples
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted


@config
class Unchanged(Knobs):
    """Without knobs."""

    name: Literal["unchanged"]

    fixed: ClassVar[bool] = False
    tokens: ClassVar[bool] = True

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`."""
        return _Kept(network, grid, x)


class _Kept(OfSamples):
    def velocity(self, x: Tensor, i: int) -> Tensor:
        called, answer = torch.ones(len(x), dtype=torch.bool, device=x.device), x
        if self.memory:
            called = (x != self.memory["state"]).flatten(1).any(dim=1)
            answer = self.memory["answer"] * (self.grid.sigma[i - 1] / self.grid.sigma[i])  # D / t
        self.memory = {"state": x, "answer": self.answered(x, i, called, answer)}
        return self.memory["answer"]
