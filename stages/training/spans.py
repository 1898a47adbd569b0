"""What methods that learn averages over a span of times share: how spans are drawn, and guidance without a teacher."""

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor

from stages.core.guidance import guided
from stages.core.prompts import EMPTY
from stages.core.rng import fork, normal_like
from stages.core.types import Cond, Velocity, World


def draw_spans(
    x0: Tensor, rng: Generator, *, mean: float, std: float, equal_share: float
) -> tuple[Tensor, Tensor, int]:
    """Times t >= r [B], the larger and the smaller of two of a logit-normal law; in the first rows r = t.

    How many these are, `equal_share` of all and never all, comes third.
    """
    first, second = fork(rng, "first", "second")
    one, other = ((mean + std * normal_like(x0.flatten(1)[:, 0], source)).sigmoid() for source in (first, second))
    t, r = torch.maximum(one, other), torch.minimum(one, other)
    num_equal = int(equal_share * len(x0))
    r[:num_equal] = t[:num_equal]
    return t, r, num_equal


class Led(Protocol):
    """What a method's configuration says of the velocity that it learns averages of."""

    @property
    def velocity(self) -> Literal["data", "teacher"]:
        """Whose it is."""
        ...

    @property
    def guidance(self) -> float:
        """w; 1 is none."""
        ...


def leading(world: World, student: Velocity, cfg: Led) -> Callable[[Tensor, Tensor, Tensor, Cond], Tensor]:
    """(noise - data [B, ...], x_t, t [B], cond) -> v [B, ...]: the line's, guided by `student`, or the teacher's."""
    if cfg.velocity == "data":
        return lambda line, x, t, cond: self_guided(student, line, x, t, cond, cfg.guidance)
    teacher = guided(world.nets["teacher"], cfg.guidance)
    return lambda _line, x, t, cond: teacher(x, t, cond)


def self_guided(student: Velocity, v: Tensor, x: Tensor, t: Tensor, cond: Cond, scale: float) -> Tensor:
    """v + (1 - 1/w) (u(x, t, t | cond) - u(x, t, t | empty)): a student that learns it is guided by w.

    Its fixed point is w v_c + (1 - w) v_u, where v_u is its answer to the empty prompt, whose rows learn v as it is.
    Scale 1 is v itself, without a call.
    """
    if scale == 1:
        return v
    both = student(
        torch.cat([x, x]), torch.cat([t, t]), torch.cat([cond, torch.full_like(cond, EMPTY)]), until=torch.cat([t, t])
    )
    with_prompt, without = both.chunk(2)
    return v + (1 - 1 / scale) * (with_prompt - without)
