"""The type that our arithmetic is done in, whatever type networks compute in.

Two velocities that are nearly equal, as those of a model and of its reference are, share their leading digits; bfloat16
keeps three. A network's answer is widened where it enters our arithmetic, before anything is subtracted from it.
"""

import torch
from torch import Tensor

from stages.core.types import Cond, Velocity


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """float32, or `dtype` itself where that is wider."""
    return torch.promote_types(dtype, torch.float32)


def widened(x: Tensor) -> Tensor:
    """`x` in float32, or as it is where its type is no narrower."""
    return x.to(wide_type(x.dtype))


def wide(velocity: Velocity) -> Velocity:
    """`velocity`, with its answers widened."""

    def answer(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return widened(velocity(x, t, cond))

    return answer
