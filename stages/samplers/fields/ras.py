"""Region-adaptive sampling: at most nodes a part of the tokens goes through, and the others keep their velocity.

Tokens are ranked by the standard deviation of their last velocity, and as many as are left out are those at the top
(`high`) and at the bottom. Those that go through look at the keys and values of all, each as it was last made. A token
that was left out often has it harder to be left out again, by exp(starvation x how often since then). Some requests are
dense: all tokens go through, and the counts begin anew.
Source: Liu et al. 2025 (RAS, arXiv:2502.10389) and its code.
Differs: `as_published` has what its code does, by which a token at the top that was left out is pushed further up: with
`high` 1 half of the tokens are never asked again. `protected` turns the sign there. Dense requests are at
intervals, not at named nodes. Each sample has a ranking of its own.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Steps, Unit
from stages.models.opened import Joint, Opened
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs, OfBlocks, by_row, by_sample
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted


@config
class RAS(Knobs):
    """How many tokens, and which."""

    name: Literal["ras"]
    share: Annotated[float, Knob(gt=0, le=1, allow_inf_nan=False)]
    """Of the tokens, which go through; 1 is all."""
    warm_up: Steps
    """The first requests, which are dense."""
    every: Steps
    """Of so many requests after them, one is dense: no token is left out as often in a row."""
    high: Unit
    """Of the tokens that are left out, the share from the top of the ranking; the others are from the bottom."""
    starvation: Annotated[float, Knob(ge=0, le=10, allow_inf_nan=False)]
    """k: how much being left out counts."""
    droughts: Literal["protected", "as_published"]

    fixed: ClassVar[bool] = False

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`. ValueError where the network does not show its blocks."""
        _ = network.num_blocks
        return _Regions(self, network, grid, x)


class _Regions(OfBlocks):
    def __init__(self, knobs: RAS, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._knobs = knobs
        self._asked = 0

    def velocity(self, x: Tensor, i: int) -> Tensor:
        asked, self._asked = self._asked, self._asked + 1
        opened, blocks = self._network.opened(x, self._labels[i]), range(self._network.num_blocks)
        whole = opened.tokens.shape[1]
        left_out = whole - max(1, round(self._knobs.share * whole))
        is_dense = asked < self._knobs.warm_up or (asked - self._knobs.warm_up + 1) % self._knobs.every == 0
        rows = len(opened.tokens) // len(x)
        if is_dense or not self.memory or not left_out:
            active = torch.arange(whole, device=x.device).expand(len(x), -1)
            self.memory = {"count": torch.zeros_like(active)}
        else:
            active = self._active(left_out)
            self.memory["count"] = (self.memory["count"] + 1).scatter_add(1, active, -torch.ones_like(active))
        chosen = active.repeat(rows, 1)

        def attend(number: int, joint: Joint, _before: Tensor, tokens: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
            query, *seen = joint.heads(tokens, words)
            full = []
            for name, each in zip((f"key{number}", f"value{number}"), seen, strict=True):
                kept = self._kept(name, each[:, :, : tokens.shape[1]], chosen, len(x), dim=2)
                full.append(torch.cat([kept, each[:, :, tokens.shape[1] :]], dim=2))
            return joint.mixed(query, *full, num_tokens=tokens.shape[1])

        going = opened.at(chosen).after(blocks, attend)
        self.worked(len(x), opened, self._work(opened, blocks, active.shape[1], whole))
        patches = self._network.joined(going.patches())
        self.memory["patches"] = _put(self.memory.get("patches"), patches, active, dim=1)
        return opened.pixels(self.memory["patches"])

    @staticmethod
    def _work(opened: Opened, blocks: range, going: int, whole: int) -> int:
        return sum(opened.attention_work(n, going, whole) + opened.other_work(n, going) for n in blocks)

    def _active(self, left_out: int) -> Tensor:
        """int64 [B, A]: the tokens that go through, in their order."""
        knobs = self._knobs
        score = self.memory["patches"].std(dim=2, correction=0)
        return active(score, self.memory["count"], left_out, knobs.high, knobs.starvation, knobs.droughts)

    def _kept(self, name: str, new: Tensor, chosen: Tensor, count: int, dim: int) -> Tensor:
        """What is kept of all tokens [R, heads, T, ...], with what is new of some."""
        before = self.memory.get(name)
        made = _put(None if before is None else by_row(before), new, chosen, dim)
        self.memory[name] = by_sample(made, count)
        return made


def active(score: Tensor, count: Tensor, left_out: int, high: float, starvation: float, droughts: str) -> Tensor:
    """int64 [B, A] of T tokens with a score [B, T], left out so often, int64 [B, T]: all but `left_out` of them."""
    from_top = round(high * left_out)
    push = (starvation * count).exp()
    top = score * push if droughts == "as_published" else score / push
    going = torch.ones_like(score, dtype=torch.bool)
    going.scatter_(1, top.topk(from_top, dim=1).indices, False)
    bottom = (score * push).masked_fill(~going, torch.inf)
    going.scatter_(1, bottom.topk(left_out - from_top, dim=1, largest=False).indices, False)
    return going.nonzero()[:, 1].unflatten(0, (len(score), -1))


def _put(kept: Tensor | None, new: Tensor, at: Tensor, dim: int) -> Tensor:
    """`kept` with `new` at the places `at` [N, A] of its dimension `dim`; `new` itself where all are there."""
    if kept is None or new.shape[dim] == kept.shape[dim]:
        return new
    place = at.reshape(len(at), *(1,) * (dim - 1), -1, *(1,) * (new.dim() - dim - 1)).expand_as(new)
    return kept.scatter(dim, place, new)
