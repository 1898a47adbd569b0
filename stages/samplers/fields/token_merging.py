"""Token merging: in each block's attention, tokens that are much alike go as one.

Of each square of tokens the first is a place to merge into; of the others those that are most like such a place, by the
cosine of what comes to the block, become one with it: their mean. What attention makes of it goes to all of them.
Source: Bolya & Hoffman 2023 (ToMe for Stable Diffusion, arXiv:2303.17604), with its code's places without randomness.
Differs: attention here is of tokens and words together; words are not merged. `counted` has a merged token weigh as
many as it is, by the logarithm of their number in attention (Bolya et al. 2023, arXiv:2210.09461): equal tokens then
merge without error, as they do not where it is left out.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Part
from stages.models.opened import Joint
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs, OfBlocks
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted


@config
class TokenMerging(Knobs):
    """How many."""

    name: Literal["token_merging"]
    share: Part
    """Of the tokens, which are merged into others; 0 is none."""
    stride: Annotated[int, Knob(ge=2, le=64)]
    """The side of the squares of tokens that have a place to merge into each."""
    counted: bool
    """Whether a merged token weighs as many as it is of; not, as published."""

    fixed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.share > (most := 1 - self.stride**-2):
            raise ValueError(f"share={self.share}: with stride={self.stride} at most {most:g} of the tokens can merge")

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`. ValueError where the network does not show its blocks."""
        _ = network.num_blocks
        return _Merged(self, network, grid, x)


class _Merged(OfBlocks):
    def __init__(self, knobs: TokenMerging, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._knobs = knobs

    def velocity(self, x: Tensor, i: int) -> Tensor:
        opened, blocks = self._network.opened(x, self._labels[i]), range(self._network.num_blocks)
        num_tokens = opened.tokens.shape[1]
        count = int(self._knobs.share * num_tokens)

        def attend(_number: int, joint: Joint, before: Tensor, tokens: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
            merging = merged(before, self._knobs.stride, count)
            heads = joint.heads(merging.mean(tokens), words)
            sizes = torch.cat([merging.sizes, torch.ones_like(words[..., 0])], dim=1)
            bias = sizes.log()[:, None, None] if self._knobs.counted else None
            made, read = joint.mixed(*heads, num_tokens=num_tokens - count, bias=bias)
            return merging.spread(made), read

        left = num_tokens - count
        work = sum(opened.attention_work(n, left, left) + opened.other_work(n, num_tokens) for n in blocks)
        self.worked(len(x), opened, work)
        return self._network.closed(opened.after(blocks, attend if count else None))


@dataclass(frozen=True)
class Merging:
    """Which tokens become one."""

    place: Tensor
    """int64 [R, T]: where each of the tokens goes, of M."""
    sizes: Tensor
    """[R, M]: how many go to each place."""

    def mean(self, tokens: Tensor) -> Tensor:
        """[R, M, W] of tokens [R, T, W]."""
        total = tokens.new_zeros(*self.sizes.shape, tokens.shape[2])
        return total.scatter_add(1, _wide(self.place, tokens), tokens) / self.sizes[..., None]

    def spread(self, made: Tensor) -> Tensor:
        """[R, T, W]: to each token what was made [R, M, W] of its place."""
        return made.gather(1, _wide(self.place, made))


def merged(tokens: Tensor, stride: int, count: int) -> Merging:
    """The `count` of tokens [R, T, W], of a square picture, that are most like a place, each merged into that."""
    rows, num_tokens, _ = tokens.shape
    at = torch.arange(num_tokens, device=tokens.device)
    is_place = (at // math.isqrt(num_tokens) % stride == 0) & (at % math.isqrt(num_tokens) % stride == 0)
    places, others = at[is_place], at[~is_place]
    units = torch.nn.functional.normalize(tokens, dim=2)
    likeness, nearest = (units[:, others] @ units[:, places].transpose(1, 2)).max(dim=2)
    order = likeness.argsort(dim=1, descending=True, stable=True)
    go, stay = order[:, :count], order[:, count:]
    ends = torch.empty(rows, len(others), dtype=torch.int64, device=tokens.device)
    ends.scatter_(1, go, nearest.gather(1, go))
    ends.scatter_(1, stay, len(places) + torch.arange(stay.shape[1], device=tokens.device).expand_as(stay))
    place = torch.empty(rows, num_tokens, dtype=torch.int64, device=tokens.device)
    place[:, places], place[:, others] = torch.arange(len(places), device=tokens.device), ends
    sizes = tokens.new_zeros(rows, num_tokens - count).scatter_add(1, place, torch.ones_like(tokens[..., 0]))
    return Merging(place, sizes)


def _wide(place: Tensor, like: Tensor) -> Tensor:
    return place[..., None].expand(-1, -1, like.shape[2])
