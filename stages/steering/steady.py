"""The hallucination filter: of several samples the one whose prediction was steadiest towards the end.

Source: Aithal et al. 2024 (arXiv:2406.09358), Hal(x) = mean over elements of the variance of D(x_t, t) along a window
of the trajectory, which is large for samples between the modes of the data. Which window decides everything: a few of
the last predictions, not half of them.
Follows: https://github.com/locuslab/diffusion-model-hallucination, re-derived; differs: it chooses for each prompt,
where the paper draws some more and drops the worst.
"""

from typing import Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import NonNegativeCount
from stages.core.spec import SamplerSpec
from stages.samplers.field import Field, State
from stages.steering.rewarded import Several
from stages.steering.task import Found, Task, picked


@config
class Steady:
    """Its knobs."""

    name: Literal["steady"]
    particles: Several
    window: Several
    """Predictions that are compared."""
    until: NonNegativeCount
    """Nodes, before data, that the window ends ahead of; 0 ends with the last."""

    def serves(self, spec: SamplerSpec) -> str | None:
        """Samplers with as many inner nodes."""
        inner = spec.num_steps - 1
        if self.window + self.until <= inner:
            return None
        return f"window={self.window} and until={self.until} are more than the {inner} inner nodes; take more steps"

    def search(self, task: Task) -> Found:
        """As best of N: the predictions are by the way."""
        x0, unsteady = self.watched(task)
        steadiest = unsteady.view(task.count, -1).argmin(dim=1)
        return Found(picked(x0, steadiest), -picked(unsteady, steadiest))

    def watched(self, task: Task) -> tuple[Tensor, Tensor]:
        """All samples [B * K, ...], and how unsteady their predictions were [B * K]."""
        last = len(task.times) - 2 - self.until
        seen: list[Tensor] = []

        def watch(field: Field, state: State, node: int) -> State:
            if last - self.window < node <= last:
                seen.append(field.data(state.x, node))
            return state

        x0 = task.follow(self.particles, watch)
        return x0, torch.stack(seen).double().var(dim=0, correction=0).flatten(1).mean(dim=1)
