"""The head that DMD2 and its kin train on a frozen network's features."""

import torch
from torch import Tensor, nn


class Discriminator(nn.Module):
    """One logit [B] from feature tokens [B, T, F]: a two-layer network a token, averaged; positive means real."""

    def __init__(self, feature_dim: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.LayerNorm(feature_dim), nn.Linear(feature_dim, feature_dim), nn.SiLU(), nn.Linear(feature_dim, 1)
            )

    def forward(self, features: Tensor) -> Tensor:
        """The mean of the tokens' logits."""
        return self.body(features).mean(dim=(1, 2))
