"""The head that DMD2 and its kin train on a frozen network's features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stages.core.rng import seeded


class Discriminator(nn.Module):
    """Logits [...] from feature tokens [..., T, F]: a two-layer network a token, averaged; positive means real."""

    def __init__(self, feature_dim: int, seed: int) -> None:
        super().__init__()
        with seeded(seed):
            self.body = nn.Sequential(
                nn.LayerNorm(feature_dim), nn.Linear(feature_dim, feature_dim), nn.SiLU(), nn.Linear(feature_dim, 1)
            )

    def forward(self, features: Tensor) -> Tensor:
        """The mean of the tokens' logits."""
        return self.body(features).mean(dim=(-2, -1))


class Pool(nn.Module):
    """Many heads of one kind, each of which is asked by its number and may begin anew while the others go on."""

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, features: Tensor, which: Tensor) -> Tensor:
        """Logits of the one head that `which` [], int64, names."""
        return self.heads[int(which)](features)

    @torch.no_grad()
    def renew(self, number: int, fresh: nn.Module) -> list[nn.Parameter]:
        """Make head `number` what `fresh` is; returns its parameters, of which an optimiser should know nothing."""
        old = list(self.heads[number].parameters())
        for parameter, new in zip(old, fresh.parameters(), strict=True):
            parameter.copy_(new)
        return old
