"""Which samples of a roll-out are trained on, once all of them have been judged: their advantages stay as they are.

A word of every algorithm whose loss is a mean over samples, each with an advantage. A loss that compares the samples of
a group needs groups of one size, which `spread` does not leave; one whose advantages have to sum to zero in a group, or
that takes a group's ends as it is, has no such word.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from stages.core.advantage import ends, grouped, spread
from stages.core.config import config
from stages.core.types import Batch

Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


@config
class All:
    """Every one."""

    name: Literal["all"]

    def rows(self, advantage: Tensor, _group: Tensor, _progress: float) -> Tensor:
        """Of advantages [B], int64 [B]."""
        return torch.arange(len(advantage), device=advantage.device)


@config
class Ends:
    """Of each group the best and the worst, as many of each: DanceGRPO's choice for video."""

    name: Literal["ends"]
    share: Share
    """Of a group's samples that are kept, half of them at either end, and at least one. The code's is 8 of 24."""

    def rows(self, advantage: Tensor, group: Tensor, _progress: float) -> Tensor:
        """Of advantages [B], int64, rising, as many of every group."""
        rows = grouped(advantage, group)
        return ends(rows, max(1, int(self.share * rows.shape[1] / 2)))


@config
class Spread:
    """Of all samples those whose advantages vary most: D3S (arXiv:2509.22115), on samples."""

    name: Literal["spread"]
    share_first: Share
    """Of the samples that are kept, as training begins. D3S's own numbers are UNVERIFIED."""
    share_last: Share
    """The same at its end, approached linearly."""

    def rows(self, advantage: Tensor, _group: Tensor, progress: float) -> Tensor:
        """Of advantages [B], int64, rising; at least two where there are."""
        share = self.share_first + (self.share_last - self.share_first) * progress
        return spread(advantage, min(len(advantage), max(2, round(share * len(advantage)))))


Kept = Annotated[All | Ends | Spread, Field(discriminator="name")]

KeptInGroups = Annotated[All | Ends, Field(discriminator="name")]
"""Of every group as many."""


def chosen(made: Batch, kept: All | Ends | Spread, progress: float) -> Batch:
    """The rows of a batch that is judged which are kept, but all of its rewards, which are reported."""
    rows = kept.rows(made["advantage"], made["group"], progress)
    return {**{key: value[rows] for key, value in made.items()}, "reward": made["reward"]}
