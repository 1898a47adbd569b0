"""A negative prompt for networks that were made for none: what leads away from it, within one call.

Where pictures look at words they look once more, through keys and values of its own, at those of the prompt and at
those of the negative one. What attention makes of a sample's places, h, becomes h + alpha (pos - neg), either one
rescaled to h's norm over the sample. The embedding of time, in which the prompt as a whole is, gains what a small
network makes of the one less what it makes of the other. Both begin as nothing, so that a network which is given this
answers as before until it is trained; and equal prompts cancel, whatever was learnt. As SpeedUpNet, Chai et al. 2023
(arXiv:2312.08887); stages/distillers/speed_up_net.py says what differs.

This file is copied into saved models as it is, hence it imports torch and diffusers alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

LEAST = 1e-12
"""Of a norm that is divided by."""


class Look(nn.Module):
    """What one layer's places see of both prompts."""

    def __init__(self, width: int, num_heads: int, words: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_k = nn.Linear(words, width, bias=False)
        self.to_v = nn.Linear(words, width, bias=False)
        self.alpha = nn.Parameter(torch.zeros(width))

    def forward(
        self, held: torch.Tensor, query: torch.Tensor, prompts: torch.Tensor, negatives: torch.Tensor
    ) -> torch.Tensor:
        """What leads `held` [B, T, W] away from the words `negatives` [B, L, D], towards those of `prompts`."""
        away = self._seen(held, query, prompts) - self._seen(held, query, negatives)
        return (self.alpha * away).to(held)

    def _seen(self, held: torch.Tensor, query: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Of the norm that `held` has, sample by sample."""
        query, key, value = (
            each.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for each in (query, self.to_k(words), self.to_v(words))
        )
        seen = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        whole, own = (each.flatten(1).norm(dim=1) for each in (held, seen))
        return seen * (whole / own.clamp_min(LEAST))[:, None, None]


class Whole(nn.Module):
    """What the embedding of time is told of both prompts as a whole, the mean of their words."""

    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        self.inner = nn.Linear(words, width)
        self.middle = nn.Linear(width, width)
        self.outer = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.outer.weight)

    def forward(self, held: torch.Tensor, prompts: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        """`held` [B, W] led away from the words `negatives` [B, L, D], towards those of `prompts`."""
        at = self.middle(held)
        told, other = (nn.functional.silu(self.inner(words.mean(dim=1)) + at) for words in (prompts, negatives))
        return held + self.outer(told - other).to(held)


class NegativeReader(ModelMixin, ConfigMixin):
    """A look of each layer that looks at words, in the order in which the network has them, and one at the whole."""

    @register_to_config
    def __init__(self, widths: Sequence[int], heads: Sequence[int], embedding: int, words: int) -> None:
        """`words` is the width of a token of a prompt, before the network has made anything of it."""
        super().__init__()
        self.looks = nn.ModuleList(Look(width, count, words) for width, count in zip(widths, heads, strict=True))
        self.whole = Whole(embedding, words)

    @classmethod
    def made_for(cls, body: nn.Module, embedding: int, words: int) -> "NegativeReader":
        """A fresh one, from torch's seed, for a network whose embedding of time is so wide."""
        found = readers(body)
        return cls([each.inner_dim for each in found], [each.heads for each in found], embedding, words)

    @contextmanager
    def joins(
        self, body: nn.Module, embedding: nn.Module, prompts: torch.Tensor, negatives: torch.Tensor
    ) -> Iterator[None]:
        """While it lasts, `body` is led away from `negatives` [B, L, D] towards its own `prompts` [B, L, D]."""
        with ExitStack() as hooks:
            told = lambda _layer, _given, answer: self.whole(answer, prompts, negatives)  # noqa: E731
            hooks.callback(embedding.register_forward_hook(told).remove)
            for layer, look in zip(readers(body), self.looks, strict=True):
                for hook in _within(layer, look, prompts, negatives):
                    hooks.callback(hook.remove)
            yield


def readers(body: nn.Module) -> list[Attention]:
    """The layers of a network by which pictures look at words, alone or beside themselves."""
    found = [each for each in body.modules() if isinstance(each, Attention)]
    return [each for each in found if each.is_cross_attention or each.added_kv_proj_dim is not None]


def _within(layer: Attention, look: nn.Module, prompts: torch.Tensor, negatives: torch.Tensor) -> tuple:
    """Hooks: where a layer asks, and where it makes its answer of what it saw.

    What leads away is added to the answer, as the layer is linear: nothing is then nothing to the last bit, as what the
    layer is given is laid out in memory as it was.
    """
    asked: list[torch.Tensor] = []

    def ask(_layer: nn.Module, _given: tuple, query: torch.Tensor) -> None:
        asked.append(query)

    def lead(out: nn.Module, given: tuple, answer: torch.Tensor) -> torch.Tensor:
        return answer + nn.functional.linear(look(given[0], asked.pop(), prompts, negatives), out.weight)  # pyright: ignore

    return layer.to_q.register_forward_hook(ask), layer.to_out[0].register_forward_hook(lead)  # pyright: ignore
