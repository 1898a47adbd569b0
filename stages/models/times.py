"""What networks that are trained here have in common: one time, or two; one network, or several that share prompts."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

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

    @property
    def num_students(self) -> int:
        """Networks that share the prompts between them."""
        return len(getattr(self.body, "members", [self.body]))  # pyright: ignore[reportArgumentType]

    def divide(self, count: int) -> None:
        """Make it `count` networks that share the prompts, unless it is so many; no answer changes.

        ValueError where it is another number of them, or has two times.
        """
        if self.num_students == count:
            return
        if self.num_students > 1 or self.second_time is not None:
            what = "of two times" if self.second_time is not None else f"of {self.num_students} students"
            raise ValueError(f"num_students={count}: it starts from a model {what}; set it to 1, or start from another")
        from stages.models.several import Several

        self.body = Several.of(self.body, self.text.features["hidden"][1:], count)  # pyright: ignore

    def by_student(self, words: Tensor, call: Callable[[Any, Tensor | slice], Tensor]) -> Tensor:
        """Answers [B, ...] of call(body, rows), each row by the network of its prompt, whose tokens are words."""
        return self.body.by_member(words, call) if self.num_students > 1 else call(self.body, slice(None))  # pyright: ignore

    def add_second_time(self, seed: int) -> None:
        """Give it the second time, unless it has one; no answer changes. ValueError where it is several networks."""
        if self.second_time is not None:
            return
        if self.num_students > 1:
            raise ValueError("a model of several students has one time; start a method of two times from another")
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
