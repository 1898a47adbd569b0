"""NASA: negative prompts without guidance, by what attention makes of their words; for students of one or few calls.

In each block the tokens of a picture look at themselves and the prompt's words, as always. They look a second time with
the negative prompt's words in the place of those, and `weight` times what they would take from these words alone is
taken away. The negative words go through the blocks beside the others, and no picture's token sees them otherwise.
Source: negative-away steer attention, of SNOOPI (arXiv:2412.02687): Z+ - weight Z-, of the attention that reads words,
without (1 - weight) to make up for it; of joint attention, as here, the part from a picture to words. By notes: no code
is published.
Differs: the negative words are made in each block from the picture's tokens as they are under steering; the embedding
of the time, in which the prompt as a whole is, knows the prompt alone.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import NonNegative
from stages.models.opened import Joint
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs, OfBlocks
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted


@config
class NASA(Knobs):
    """How much."""

    name: Literal["nasa"]
    weight: NonNegative
    """Of what the negative words say; 0 is the network."""

    fixed: ClassVar[bool] = False

    def fits(self, _num_steps: int, guidance: float) -> None:
        """ValueError under guidance, which has a negative prompt of its own."""
        if guidance != 1:
            raise ValueError(
                f"field=nasa: guidance={guidance:g} leads away from the negative prompt already; set it to 1, or leave "
                "the field out"
            )

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`. ValueError without a negative prompt, or where the network does not show its blocks."""
        _ = network.num_blocks
        if self.weight == 0:
            return Field(network, grid, x)
        if network.negative is None:
            raise ValueError(
                "field=nasa leads away from a negative prompt, and none is named; `fewstep sample` takes it"
            )
        return _Steered(self.weight, network, network.negative, grid, x)


class _Steered(OfBlocks):
    def __init__(self, weight: float, network: Prompted, negative: Tensor, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._weight, self._others = weight, Prompted(network.net, negative)

    def velocity(self, x: Tensor, i: int) -> Tensor:
        opened = self._network.opened(x, self._labels[i])
        count, length = opened.tokens.shape[1], opened.words.shape[1]
        both = replace(opened, words=torch.cat([opened.words, self._others.opened(x, self._labels[i]).words], dim=1))

        def attend(_block: int, joint: Joint, _before: Tensor, tokens: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
            parts = (each.split([count, length, length], dim=2) for each in joint.heads(tokens, words))
            (query, of_words, of_others), (key, *keys), (value, *values) = parts
            made = _looked([query, of_words], [key, keys[0]], [value, values[0]])
            read = _looked([of_others], [key, keys[1]], [value, values[1]])
            taken = _looked([query], [key, keys[1]], [torch.zeros_like(value), values[1]])
            steered = made[:, :, :count] - self._weight * taken
            return joint.told(torch.cat([steered, made[:, :, count:], read], dim=2), count)

        blocks, once, reach = range(self._network.num_blocks), count + length, count + 2 * length
        work = 0
        for n in blocks:
            spared = both.looking_work(n, reach, reach) - 2 * both.looking_work(n, once, once)
            work += both.other_work(n, count) + both.attention_work(n, count, count) - spared
        self.worked(len(x), opened, work)
        return self._network.closed(both.after(blocks, attend))


def _looked(queries: Sequence[Tensor], keys: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """Of parts behind each other, [R, heads, T, W / heads]."""
    query, key, value = (torch.cat([*parts], dim=2) for parts in (queries, keys, values))
    return F.scaled_dot_product_attention(query, key, value)
