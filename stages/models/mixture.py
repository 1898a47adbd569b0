"""A Gaussian mixture as a network: exact velocity, score and samples, for teachers that need no training.

Prompts name components ("component 3"); the empty prompt is the whole mixture, so guidance has a meaning too.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from stages.core.path import expand, velocity_from_data
from stages.core.prompts import EMPTY
from stages.core.rng import normal_like
from stages.core.types import Cond
from stages.models.conditioning import OneHot
from stages.models.table import Text, TextTable


def component_prompts(count: int) -> list[str]:
    """The prompt of each of `count` components."""
    return [f"component {k}" for k in range(count)]


class GaussianMixture(nn.Module):
    """sum_k w_k N(mu_k, s_k^2 I) on the flow path; x is [B, d, 1, 1]. Computes in float64, answers in x's type."""

    weights: Tensor  # [K]
    means: Tensor  # [K, d]
    stds: Tensor  # [K]
    text: Text
    """Says which component a row of `cond` is; of its own, row 0 is the whole mixture and row k + 1 component k."""

    def __init__(self, weights: Tensor, means: Tensor, stds: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights.double())
        self.register_buffer("means", means.double())
        self.register_buffer("stds", stds.double())
        self.feature_dim = 2 * means.shape[1]
        self.encoder = OneHot(["", *component_prompts(len(weights))])
        self.text = TextTable(self.encoder.prompts, self.encoder.encode(self.encoder.prompts))

    @classmethod
    def even(cls, means: Sequence[Sequence[float]], stds: Sequence[float]) -> "GaussianMixture":
        """With equal weights."""
        return cls(torch.full((len(means),), 1 / len(means)), torch.tensor(means), torch.tensor(stds))

    def component(self, cond: Cond) -> Tensor:
        """The component's number [B], or K for the whole mixture."""
        return (self.text(cond)["pooled"].argmax(1) - 1) % (len(self.weights) + 1)

    def posterior(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """P(component | x_t = x, prompt), float64 [B, K]."""
        x, t = x.double().flatten(1), t.double().reshape(-1, 1)
        variance = (1 - t).square() * self.stds.square() + t.square()  # [B, K]
        gap = x[:, None] - (1 - t)[..., None] * self.means
        log = -0.5 * gap.square().sum(-1) / variance - 0.5 * x.shape[1] * variance.log() + self.weights.log()
        asked = self.component(cond)[:, None]
        allowed = (torch.arange(len(self.weights), device=x.device) == asked) | (asked == len(self.weights))
        return log.masked_fill(~allowed, -torch.inf).softmax(-1)

    def nearest(self, x: Tensor) -> Tensor:
        """The component that a sample most likely came from, whatever it was asked for: int64 [B]."""
        whole = torch.full((len(x), 1), EMPTY, device=x.device)
        return self.posterior(x, torch.zeros(len(x), device=x.device), whole).argmax(1)

    def denoise(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """E[x0 | x_t = x, prompt] of x's shape, float64."""
        flat, time = x.double().flatten(1), t.double().reshape(-1, 1)
        variance = (1 - time).square() * self.stds.square() + time.square()
        gap = flat[:, None] - (1 - time)[..., None] * self.means
        per_component = self.means + ((1 - time) * self.stds.square() / variance)[..., None] * gap
        return (self.posterior(x, t, cond)[..., None] * per_component).sum(1).reshape(x.shape)

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The exact velocity; at t = 0, where v = E[eps] - x0, its limit -x."""
        at_data = expand(t == 0, x)
        time = torch.where(t == 0, torch.ones_like(t), t).double()
        v = velocity_from_data(x.double(), self.denoise(x, t, cond), time)
        return torch.where(at_data, -x.double(), v).to(x.dtype)

    def features(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """[B, 1, 2 d]: the state beside its velocity."""
        return torch.cat([x.flatten(1), self(x, t, cond).flatten(1)], dim=1)[:, None]

    def sample(self, cond: Cond, rng: Generator) -> Tensor:
        """Exact samples [B, d, 1, 1], float32."""
        drawn = torch.multinomial(self.weights, len(cond), replacement=True, generator=rng)
        asked = self.component(cond)
        which = torch.where(asked == len(self.weights), drawn, asked)
        mean = self.means[which].float()
        return (mean + self.stds[which].float()[:, None] * normal_like(mean, rng))[..., None, None]
