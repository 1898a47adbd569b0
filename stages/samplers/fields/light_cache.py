"""LightCache: at intervals all of the network; between them its outer blocks, and what the inner ones added last.

Source: LightCache's code (NKUShaw/LightCache), a fixed interval over DeepCache's features (Ma et al. 2023,
arXiv:2312.00858), whose outer blocks are a UNet's finest level. Here they are the first and the last blocks of our
transformer, and what is kept is what the blocks between them added to tokens and words.
Differs: its memory is this alone, twice under guidance, and ends with the run. Swapping features to the host and slices
of a decoder are not here: a model's own loading and a space's own slices do those.
"""

from dataclasses import replace
from typing import ClassVar, Literal

from torch import Tensor

from stages.core.config import config
from stages.core.ranges import NonNegativeCount, Steps
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs, OfBlocks, by_row, by_sample
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted


@config
class LightCache(Knobs):
    """How often, and which blocks are always run."""

    name: Literal["light_cache"]
    every: Steps
    """Of so many requests in turn, one goes through all blocks; 1 always does."""
    first: NonNegativeCount
    """Of the blocks, which are always run, as are the"""
    last: NonNegativeCount

    fixed: ClassVar[bool] = False

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`. ValueError where the network has no other blocks, or does not show them."""
        if self.first + self.last >= network.num_blocks:
            raise ValueError(
                f"field light_cache: first={self.first} and last={self.last} leave none of the network's "
                f"{network.num_blocks} blocks"
            )
        return _Outer(self, network, grid, x)


class _Outer(OfBlocks):
    def __init__(self, knobs: LightCache, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._knobs = knobs
        self._asked = 0

    def velocity(self, x: Tensor, i: int) -> Tensor:
        asked, self._asked = self._asked, self._asked + 1
        opened, total = self._network.opened(x, self._labels[i]), self._network.num_blocks
        first, end = range(self._knobs.first), total - self._knobs.last
        inner, last = range(self._knobs.first, end), range(end, total)
        begun, is_whole = opened.after(first), asked % self._knobs.every == 0 or not self.memory
        if is_whole:
            made = begun.after(inner)
            self._keep("tokens", made.tokens, begun.tokens, len(x))
            if last:  # after the last block there are no words
                self._keep("words", made.words, begun.words, len(x))
        else:
            added = {name: getattr(begun, name) + by_row(kept) for name, kept in self.memory.items()}
            made = replace(begun, **added)
        count = opened.tokens.shape[1]
        run = [*first, *(inner if is_whole else ()), *last]
        self.worked(
            len(x), opened, sum(opened.attention_work(n, count, count) + opened.other_work(n, count) for n in run)
        )
        return self._network.closed(made.after(last))

    def _keep(self, name: str, after: Tensor, before: Tensor, count: int) -> None:
        self.memory[name] = by_sample(after - before, count)
