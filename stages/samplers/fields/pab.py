"""Pyramid attention broadcast: in the middle of a run, what a block's attention made is reused for some calls.

All else of the block is done anew, on the tokens as they are.
Source: Zhao et al. 2024 (PAB, arXiv:2408.12588), and the hook of that name in diffusers 0.42.1. Attention over space is
broadcast to one further call there, and other kinds to more; ours has one kind, of tokens and words together.
Differs: calls are counted from the last at which attention was done; the hook does it at multiples of its interval,
also where it was done just before because the interval of times began.
"""

from typing import ClassVar, Literal

from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Steps, Unit
from stages.models.opened import Joint
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs, OfBlocks, by_row, by_sample
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted


@config
class PAB(Knobs):
    """Where, and how often."""

    name: Literal["pab"]
    every: Steps
    """Of so many requests in turn, one does attention; 1 always does."""
    until: Unit
    """What attention made is reused at times between this,"""
    since: Unit
    """and this."""

    fixed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.until >= self.since:
            raise ValueError(f"until={self.until} must be less than since={self.since}: times fall")

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`. ValueError where the network does not show its blocks."""
        _ = network.num_blocks
        return _Broadcast(self, network, grid, x)


class _Broadcast(OfBlocks):
    def __init__(self, knobs: PAB, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._knobs = knobs
        self._asked = 0
        self._last = 0

    def velocity(self, x: Tensor, i: int) -> Tensor:
        asked, self._asked = self._asked, self._asked + 1
        is_inside = self._knobs.until < self.grid.times[i] < self._knobs.since
        attends = not self.memory or not is_inside or asked - self._last >= self._knobs.every
        opened, blocks = self._network.opened(x, self._labels[i]), range(self._network.num_blocks)
        count = opened.tokens.shape[1]
        if attends:
            self._last = asked

        def attend(number: int, joint: Joint, _before: Tensor, tokens: Tensor, words: Tensor) -> tuple[Tensor, ...]:
            names = f"tokens{number}", f"words{number}"
            if not attends:
                return tuple(by_row(self.memory[name]) for name in names)
            made = joint(tokens, words)
            self.memory |= {name: by_sample(each, len(x)) for name, each in zip(names, made, strict=True)}
            return made

        work = sum(opened.other_work(n, count) + attends * opened.attention_work(n, count, count) for n in blocks)
        self.worked(len(x), opened, work)
        return self._network.closed(opened.after(blocks, attend))
