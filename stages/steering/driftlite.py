"""DriftLite: a drift of a few bases takes the spread of the weights upon itself, so that hardly any are resampled.

Source: Ren et al. 2025 (arXiv:2509.21655), VCG and ECG. A drift b adds h(b) = law's score . b + div b to the growth of
the log weights, whose mean under the law is 0; its coefficients are those that leave the least variance (VCG), or the
least energy that makes up for the growth (ECG).
Differs: on the half-gradient process of the correctors, whose growth has no Laplacian; one probe for divergences.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from stages.core.config import config
from stages.core.spec import SamplerSpec
from stages.steering.corrected import Anneal, Here, Law, Tilt, simulate
from stages.steering.fkc import ended, follows, why_not_memoryless
from stages.steering.particles import Particles, Resampling
from stages.steering.rewarded import Rewards, Several
from stages.steering.task import Found, Task, inner

Basis = Literal["score", "state", "reward"]
"""The model's score, x itself, and the slope of the reward."""


@config
class DriftLite:
    """Its knobs."""

    name: Literal["driftlite"]
    reward: Rewards
    """What a tilt follows, so that it needs a gradient; otherwise it only judges."""
    particles: Several
    target: Annotated[Tilt | Anneal, Field(discriminator="name")]
    bases: tuple[Basis, ...]
    control: Literal["variance", "energy"]
    """VCG, or ECG, whose bases are gradients of known functions: not the score."""
    resampling: Resampling
    pick: Literal["draw", "best"]

    def __post_init__(self) -> None:
        follows(self.target, self.reward)
        if not self.bases or len(set(self.bases)) < len(self.bases):
            raise ValueError(f"bases={list(self.bases)}: name one or more of score, state and reward, each once")
        if "reward" in self.bases and not isinstance(self.target, Tilt):
            raise ValueError("bases: the reward is no basis where the target is not tilted by it; take it out")
        if "score" in self.bases and self.control == "energy":
            raise ValueError("bases: energy takes no score, whose log-density is not known; take it out")

    def serves(self, spec: SamplerSpec) -> str | None:
        """The memoryless process, in three steps or more."""
        return why_not_memoryless(spec)

    def search(self, task: Task) -> Found:
        """As the correctors, and a pass back through the network at each inner step if the score is a basis."""
        return ended(task, self.pick, *self.cloud(task))

    def cloud(self, task: Task) -> tuple[Tensor, Particles]:
        """All particles, with their weights."""
        particles = Particles(task, self.particles, self.resampling)
        of, probed = task.owners(self.particles), {"score", "reward"}.intersection(self.bases)
        law = Law(task, self.target, of, turned="score" in probed, bent="reward" in probed)
        return simulate(task, law, particles, self._controlled), particles

    def _controlled(self, here: Here, _t: float, log_weights: Tensor) -> tuple[Tensor, Tensor]:
        named = [_basis(name, here) for name in self.bases]
        adds = torch.stack([inner(here.law_score, drift) + turn for drift, turn, _ in named])
        weights = log_weights.softmax(dim=1)
        if self.control == "variance":
            share = _covariance(adds, adds, weights)
            wanted = -_covariance(adds, here.growth[None], weights)
        else:
            share = _mean(torch.stack([torch.stack([inner(a, b) for b, *_ in named]) for a, *_ in named]), weights)
            wanted = _covariance(torch.stack([each[2] for each in named]), here.growth[None], weights)
        theta = torch.linalg.pinv(share, hermitian=True) @ wanted  # [B, bases, 1]
        per_row = theta[:, :, 0].repeat_interleave(weights.shape[1], 0)  # [B * K, bases]
        drift, growth = here.drift, here.growth
        for k, (basis, _, _) in enumerate(named):
            factor = per_row[:, k].reshape(-1, *(1,) * (basis.dim() - 1))
            drift = drift + factor.to(basis) * basis
            growth = growth + per_row[:, k] * adds[k]
        return drift, growth


def _basis(name: Basis, here: Here) -> tuple[Tensor, Tensor, Tensor]:
    """A drift [n, ...], its divergence [n], and the function [n] that it is the gradient of, for energy."""
    if name == "score":
        return here.score, here.turning, torch.zeros_like(here.growth)
    if name == "state":
        return here.x, torch.full_like(here.growth, here.x[0].numel()), inner(here.x, here.x) / 2
    return here.slope, here.bend, here.reward


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """[B, i, j] of values [i, j, B * K]."""
    return (values.unflatten(2, weights.shape) * weights).sum(dim=3).permute(2, 0, 1)


def _covariance(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """[B, i, j] of a [i, B * K] and b [j, B * K]."""
    a, b = (each.unflatten(1, weights.shape) for each in (a, b))
    a, b = (each - (each * weights).sum(dim=2, keepdim=True) for each in (a, b))
    return torch.einsum("ibk,jbk,bk->bij", a, b, weights)
