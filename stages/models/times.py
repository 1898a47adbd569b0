"""What networks that are trained here have in common: one time, or two."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # see text.py
    from stages.models.second_time import SecondTime


class TwoTimes(nn.Module, ABC):
    """A network of one time, until it is given a second one. Who does not name that gets the velocity at the first."""

    def __init__(self) -> None:
        super().__init__()
        self.second_time: SecondTime | None = None

    @property
    @abstractmethod
    def time_embedding(self) -> tuple[nn.Module, int]:
        """The layer that embeds t, which the second time joins, and the width of its answer."""

    def add_second_time(self, seed: int) -> None:
        """Give it the second time, unless it has one; no answer changes."""
        if self.second_time is not None:
            return
        from stages.models.second_time import SecondTime

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = SecondTime(self.time_embedding[1])
        self.second_time = made.to(next(self.parameters()))  # pyright: ignore[reportArgumentType]

    def told(self, t: Tensor, until: Tensor | None) -> AbstractContextManager[None]:
        """While it lasts, the embedding of t [B] is told of `until` [B].

        ValueError where a network of one time is asked for an average.
        """
        if self.second_time is not None:
            return self.second_time.joins(self.time_embedding[0], torch.zeros_like(t) if until is None else t - until)
        if until is None:
            return nullcontext()
        raise ValueError(
            "the network has one time, and was asked for the average velocity between two; the sampler rule flow_map "
            "is for students of methods that train one, such as meanflow"
        )
