"""What rules of tokens share: where they begin, how a token is drawn, and which models they take.

A state x [B, K, ...] has at each place one 1, or zeros where it is masked (`stages/models/tokens.py`). D are the
chances of each token, one place at a time: places that change in one step are drawn as if they were independent, which
is all that such a step gets wrong.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from stages.core.noising import Noising
from stages.core.path import LINEAR
from stages.models.tokens import hidden, likeliest
from stages.samplers.field import Field, Rule, State


class OfTokens:
    """A rule whose states are tokens: no other takes a model of tokens, and it takes no other model."""

    name: str
    noising: ClassVar[Noising]
    """What noise does to its tokens."""

    def begun(self, field: Field, state: State, i: int) -> Tensor:
        """The state at node i; tokens of pure noise at the first. ValueError off the flow path."""
        if field.grid.path != LINEAR:
            raise ValueError(f"sampler rule {self.name!r} steps along the {LINEAR.name} path alone")
        if i > 0:
            return state.x
        return torch.zeros_like(state.x) if self.noising == "masked" else likeliest(state.x)


class Unmasking(OfTokens):
    """A rule that unmasks tokens."""

    noising = "masked"


def quantile(noise: Tensor) -> Tensor:
    """Standard normal noise as uniform numbers, float64."""
    return torch.special.ndtr(noise.double())


def revealed(x: Tensor, data: Tensor, u: Tensor, now: Tensor) -> Tensor:
    """x [B, K, ...] with a token by the chances `data` [B, K, ...] at the masked places `now`, bool [B, 1, ...]."""
    return torch.where(now & hidden(x), token(data, u), x)


def token(chances: Tensor, u: Tensor) -> Tensor:
    """Tokens [B, K, ...] by `chances` [B, K, ...] of any sum, for numbers u [B, 1, ...], uniform in [0, 1).

    A token is where the distribution function exceeds u: in float64, and without the Gumbel noise whose tails float32
    cuts off, which lowers the temperature (Zheng et al. 2024, arXiv:2409.02908).
    """
    below = chances.double().clamp_min(0).cumsum(dim=1)
    total = below[:, -1:]
    which = (below <= u * total).sum(dim=1).clamp_max(chances.shape[1] - 1)
    drawn = one_hot(which, chances.shape[1]).movedim(-1, 1).to(chances)
    return drawn.masked_fill(total.isnan(), torch.nan)


_TAKEN: Mapping[Noising | None, tuple[str, str]] = MappingProxyType(
    {
        "masked": ("tokens that noise masks", "masked or first_hitting"),
        "uniform": ("tokens that noise replaces", "uniform_state"),
        None: ("numbers", "another, such as euler"),
    }
)
"""What the model's samples are, and which rule takes them."""


def suits(rule: Rule, tokens: Noising | None) -> None:
    """ValueError unless the rule is one of such tokens where the model's samples are some, and only there."""
    mine = rule.noising if isinstance(rule, OfTokens) else None
    if mine != tokens:
        what, instead = _TAKEN[tokens]
        raise ValueError(
            f"rule {rule.name}: it steps along {_TAKEN[mine][0]}, and the model's samples are {what}; take {instead}"
        )
