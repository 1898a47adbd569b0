"""A Gaussian mixture as a network: exact velocity, score and samples, for teachers that need no training.

Prompts name components ("component 3"); the empty prompt is the whole mixture, so guidance has a meaning too.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from stages.core.path import expand, velocity_from_data
from stages.core.rng import normal_like
from stages.core.types import Tokens


class GaussianMixture(nn.Module):
    """sum_k w_k N(mu_k, s_k^2 I) on the flow path; x is [B, d, 1, 1]. Computes in float64, answers in x's type."""

    def __init__(self, weights: Tensor, means: Tensor, stds: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights.double())  # [K]
        self.register_buffer("means", means.double())  # [K, d]
        self.register_buffer("stds", stds.double())  # [K]
        self.sample_shape = (means.shape[1], 1, 1)
        self.feature_dim = 2 * means.shape[1]

    def tokens(self, prompts: Sequence[str]) -> Tokens:
        """int64 [B, 1]: the component's number, or K for the empty prompt."""
        count = len(self.weights)
        names = {f"component {k}": k for k in range(count)} | {"": count}
        strange = [prompt for prompt in prompts if prompt not in names]
        if strange:
            raise ValueError(f"prompt {strange[0]!r}: the mixture knows 'component 0' to 'component {count - 1}'")
        return torch.tensor([[names[prompt]] for prompt in prompts], device=self.weights.device)

    def null(self, n: int) -> Tokens:
        """[n, 1], the whole mixture."""
        return torch.full((n, 1), len(self.weights), device=self.weights.device)

    def posterior(self, x: Tensor, t: Tensor, cond: Tokens) -> Tensor:
        """P(component | x_t = x, prompt), float64 [B, K]."""
        x, t = x.double().flatten(1), t.double().reshape(-1, 1)
        variance = (1 - t).square() * self.stds.square() + t.square()  # [B, K]
        gap = x[:, None] - (1 - t)[..., None] * self.means
        log = -0.5 * gap.square().sum(-1) / variance - 0.5 * x.shape[1] * variance.log() + self.weights.log()
        named = torch.arange(len(self.weights), device=x.device) == cond
        allowed = named | (cond == len(self.weights))
        return log.masked_fill(~allowed, -torch.inf).softmax(-1)

    def denoise(self, x: Tensor, t: Tensor, cond: Tokens) -> Tensor:
        """E[x0 | x_t = x, prompt] of x's shape, float64."""
        flat, time = x.double().flatten(1), t.double().reshape(-1, 1)
        variance = (1 - time).square() * self.stds.square() + time.square()
        gap = flat[:, None] - (1 - time)[..., None] * self.means
        per_component = self.means + ((1 - time) * self.stds.square() / variance)[..., None] * gap
        return (self.posterior(x, t, cond)[..., None] * per_component).sum(1).reshape(x.shape)

    def forward(self, x: Tensor, t: Tensor, cond: Tokens) -> Tensor:
        """The exact velocity; at t = 0, where v = E[eps] - x0, its limit -x."""
        at_data = expand(t == 0, x)
        time = torch.where(t == 0, torch.ones_like(t), t).double()
        v = velocity_from_data(x.double(), self.denoise(x, t, cond), time)
        return torch.where(at_data, -x.double(), v).to(x.dtype)

    def features(self, x: Tensor, t: Tensor, cond: Tokens) -> Tensor:
        """[B, 1, 2 d]: the state beside its velocity."""
        return torch.cat([x.flatten(1), self(x, t, cond).flatten(1)], dim=1)[:, None]

    def sample(self, cond: Tokens, rng: Generator) -> Tensor:
        """Exact samples [B, d, 1, 1], float32."""
        count = len(self.weights)
        drawn = torch.multinomial(self.weights, len(cond), replacement=True, generator=rng)
        which = torch.where(cond[:, 0] == count, drawn, cond[:, 0])
        mean = self.means[which].float()
        return (mean + self.stds[which].float()[:, None] * normal_like(mean, rng))[..., None, None]
