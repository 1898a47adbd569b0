"""FasterCache: attention carried on between calls, and the velocity with the empty prompt made of the other one.

From `since` on, of so many calls one does a block's attention; between them it is a + weight (a - b), of the last that
was done and the one before. Under guidance, of so many requests one asks with the empty prompt too, and does attention;
the others are one pass, with the difference of the two velocities as it was, its low frequencies weighted above
`boundary` and its high ones below.
Source: Lv et al. 2024 (arXiv:2410.19355), and the hook of that name in diffusers 0.42.1: every second, every fifth,
weight 0.5, from time 0.681 on.
Differs: frequencies' weights are of the difference that was kept, see guidance_reuse.py, which is this part alone.
Calls are counted as in pab.py. Attention is done whenever both velocities are asked for.
"""

from typing import ClassVar, Literal

from torch import Tensor

from stages.core.config import config
from stages.core.ranges import NonNegative, Steps, Unit
from stages.models.opened import Joint
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs, OfBlocks, weighted
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted


@config
class FasterCache(Knobs):
    """How often, and what is made of what is kept."""

    name: Literal["faster_cache"]
    every: Steps
    """Of so many requests in turn, one does attention; 1 always does."""
    since: Unit
    """The time below which attention may be carried on."""
    weight: NonNegative
    """Of the last change of what attention makes; 0 reuses it."""
    empty_every: Steps
    """Of so many requests in turn, one asks with the empty prompt too; 1 always does. Of no use without guidance."""
    boundary: Unit
    """The time above which low frequencies are weighted, and below which high ones."""
    low: NonNegative
    high: NonNegative

    fixed: ClassVar[bool] = False

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`. ValueError where the network does not show its blocks."""
        _ = network.num_blocks
        return _Carried(self, network, grid, x)


class _Carried(OfBlocks):
    def __init__(self, knobs: FasterCache, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._knobs = knobs
        self._alone = Prompted(network.net, network.cond)
        self._asked = 0
        self._last = 0

    def velocity(self, x: Tensor, i: int) -> Tensor:
        asked, self._asked = self._asked, self._asked + 1
        is_guided = self._network.guidance != 1
        if not is_guided:
            return self._through(self._alone, x, i, asked)
        if asked % self._knobs.empty_every == 0 or "difference" not in self.memory:
            with_prompt, without = self._through(self._network, x, i, asked, attends=True).chunk(2)
            self.memory["difference"] = without - with_prompt
        else:
            with_prompt = self._through(self._alone, x, i, asked)
            is_early = self.grid.times[i] > self._knobs.boundary
            low, high = (self._knobs.low, 1.0) if is_early else (1.0, self._knobs.high)
            without = with_prompt + weighted(self.memory["difference"], low, high)
        return self._network.away(with_prompt, without)

    def _through(self, network: Prompted, x: Tensor, i: int, asked: int, *, attends: bool = False) -> Tensor:
        """Velocities [R, ...] of the network, as it opens, whose first rows have the prompts."""
        is_late = self.grid.times[i] < self._knobs.since
        attends |= "tokens0" not in self.memory or not is_late or asked - self._last >= self._knobs.every
        opened, blocks = network.opened(x, self._labels[i]), range(network.num_blocks)
        count = opened.tokens.shape[1]
        if attends:
            self._last = asked

        def attend(number: int, joint: Joint, _before: Tensor, tokens: Tensor, words: Tensor) -> tuple[Tensor, ...]:
            names = f"tokens{number}", f"words{number}"
            if not attends:
                return tuple(self._carried(name) for name in names)
            made = joint(tokens, words)
            for name, each in zip(names, made, strict=True):
                new = each[: len(x)]
                self.memory |= {f"{name}before": self.memory.get(name, new), name: new}
            return made

        work = sum(opened.other_work(n, count) + attends * opened.attention_work(n, count, count) for n in blocks)
        self.worked(len(x), opened, work)
        return network.velocities(opened.after(blocks, attend))

    def _carried(self, name: str) -> Tensor:
        last, before = self.memory[name], self.memory[f"{name}before"]
        return last + self._knobs.weight * (last - before)
