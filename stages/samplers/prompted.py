"""A network as samplers call it: under a batch's prompts and guidance, in parts where a field asks for those."""

from typing import Any

import torch
from torch import Tensor

from stages.core.guidance import away, both, guided
from stages.core.precision import Wide, widened
from stages.core.prompts import EMPTY
from stages.core.types import Cond, Velocity


class Prompted:
    """A network under a batch's prompts and guidance: a velocity, and its parts for fields that ask for those."""

    def __init__(self, net: Velocity, cond: Cond, guidance: float = 1.0, negative: Cond | None = None) -> None:
        """`cond` [B, 1]; a guidance of 1 is none. Away from the prompts `negative` [B, 1], or from the empty one.

        A network that reads a negative prompt itself is told them too, and needs no guidance.
        """
        self.net, self.cond, self.guidance, self.negative = net, cond, guidance, negative
        reads = getattr(self._own(), "negative_reader", None) is not None
        self._told = {"negative": negative} if reads and negative is not None else {}
        self._guided = guided(net, guidance, negative)

    @property
    def passes(self) -> int:
        """Samples through the network that one sample of a call takes."""
        return getattr(self._own(), "rows", 1) * (1 if self.guidance == 1 else 2)

    def __call__(self, x: Tensor, t: Tensor, **more: Tensor) -> Tensor:
        """The guided velocity."""
        return self._guided(x, t, self.cond, **self._told, **more)

    def plain(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity with the prompts, without guidance: one pass."""
        return self.net(x, t, self.cond, **self._told)

    def both(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The velocities with the prompts and with those that guidance leads away from: two passes."""
        return both(self.net, x, t, self.cond, self.negative, **self._told)

    def beside(self, x: Tensor, t: Tensor, guidance: float, told: Tensor | None = None) -> Tensor:
        """The velocity of the network's companion, under a guidance of its own; see `stages/models/times.py`.

        ValueError where there is none.
        """
        ask = getattr(self._own(), "beside", None)
        if ask is None:
            raise ValueError(f"a {type(self._own()).__name__} carries no other network, and the sampler asks for one")

        def companion(x: Tensor, t: Tensor, cond: Cond, **more: Tensor) -> Tensor:
            return widened(ask(x, t, cond, **more))

        return guided(companion, guidance, self.negative)(x, t, self.cond, **({} if told is None else {"told": told}))

    @property
    def share_beside(self) -> float:
        """What a call of the companion takes of a call of the network."""
        return self._own().share_beside

    @property
    def num_blocks(self) -> int:
        """Of the network, where it can be called block by block; ValueError where not."""
        net = self._opens()
        return net.num_blocks

    def opened(self, x: Tensor, t: Tensor) -> Any:
        """A call before its first block, of x with the prompts and then, under guidance, with the others."""
        if self.guidance == 1:
            return self._opens().opened(x, t, self.cond)
        others = torch.full_like(self.cond, EMPTY) if self.negative is None else self.negative
        conds = torch.cat([self.cond, others])
        return self._opens().opened(torch.cat([x, x]), torch.cat([t, t]), conds)

    def closed(self, opened: Any) -> Tensor:
        """The guided velocity that a call comes to."""
        return self.joined(opened.answer())

    def velocities(self, opened: Any) -> Tensor:
        """[R, ...]: those that a call comes to, with the prompts and then, under guidance, with the empty one."""
        return widened(opened.answer())

    def joined(self, answer: Tensor) -> Tensor:
        """The guided one of answers [R, ...] with the prompts and then, under guidance, with the empty one."""
        answer = widened(answer)
        return answer if self.guidance == 1 else self.away(*answer.chunk(2))

    @property
    def multiple(self) -> int:
        """What a picture's sides have to be a multiple of; ValueError where the network takes one size alone."""
        net = self._own()
        if not hasattr(net, "multiple"):
            raise ValueError(f"a {type(net).__name__} takes pictures of one size alone; leave the sampler's field out")
        return net.multiple

    def _own(self) -> Any:
        return self.net.velocity if isinstance(self.net, Wide) else self.net

    def _opens(self) -> Any:
        net = self._own()
        if not hasattr(net, "opened"):
            raise ValueError(
                f"a {type(net).__name__} is not called block by block, as the sampler's field does; take a field of "
                "whole answers, such as tea_cache"
            )
        return net

    def away(self, with_prompt: Tensor, without: Tensor) -> Tensor:
        """The guided one of two such velocities."""
        return away(self.net, with_prompt, without, self.guidance)

    def take(self, rows: Tensor) -> "Prompted":
        """The same for the samples `rows`, int64 [N]."""
        negative = None if self.negative is None else self.negative[rows]
        return Prompted(self.net, self.cond[rows], self.guidance, negative)
