"""What rules of tokens share: where they begin, and how a token is drawn.

A state x [B, K, ...] has at each place one 1, or zeros where it is masked (`stages/models/tokens.py`); at time t that
has a probability of t. D = E[x0 | x] are the chances of each token, one place at a time: places that are unmasked in
one step are drawn as if they were independent, which is all that such a step gets wrong.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from stages.core.path import LINEAR
from stages.models.tokens import hidden
from stages.samplers.field import Field, Rule, State


class Unmasking:
    """A rule whose states are tokens: no other takes a model of tokens, and it takes no other model."""

    name: str

    def begun(self, field: Field, state: State, i: int) -> Tensor:
        """The state at node i: all masked at the first, whatever noise there is. ValueError off the flow path."""
        if field.grid.path != LINEAR:
            raise ValueError(f"sampler rule {self.name!r} steps along the {LINEAR.name} path alone")
        return torch.zeros_like(state.x) if i == 0 else state.x


def quantile(noise: Tensor) -> Tensor:
    """Standard normal noise as uniform numbers, float64."""
    return torch.special.ndtr(noise.double())


def revealed(x: Tensor, data: Tensor, u: Tensor, now: Tensor) -> Tensor:
    """x [B, K, ...] with a token by the chances `data` [B, K, ...] at the masked places `now`, bool [B, 1, ...].

    A token is where the distribution function exceeds u [B, 1, ...], uniform in [0, 1): in float64, and without the
    Gumbel noise whose tails float32 cuts off, which lowers the temperature (Zheng et al. 2024, arXiv:2409.02908).
    """
    below = data.double().clamp_min(0).cumsum(dim=1)
    total = below[:, -1:]
    token = (below <= u * total).sum(dim=1).clamp_max(x.shape[1] - 1)
    drawn = one_hot(token, x.shape[1]).movedim(-1, 1).to(x).masked_fill(total.isnan(), torch.nan)
    return torch.where(now & hidden(x), drawn, x)


def suits(rule: Rule, *, of_tokens: bool) -> None:
    """ValueError unless the rule is one of tokens where the model is, and only there."""
    if of_tokens and not isinstance(rule, Unmasking):
        raise ValueError(f"rule {rule.name}: the model's samples are tokens; take masked or first_hitting")
    if isinstance(rule, Unmasking) and not of_tokens:
        raise ValueError(
            f"rule {rule.name}: it unmasks tokens, and the model's samples are numbers; take another, such as euler"
        )
