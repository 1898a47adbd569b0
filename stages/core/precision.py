"""The type that our arithmetic is done in, whatever type networks compute in.

Two velocities that are nearly equal, as those of a model and of its reference are, share their leading digits; bfloat16
keeps three. A network's answer is widened where it enters our arithmetic, before anything is subtracted from it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.core.types import Cond, Guiding, Velocity


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """float32, or `dtype` itself where that is wider."""
    return torch.promote_types(dtype, torch.float32)


def widened(x: Tensor) -> Tensor:
    """`x` in float32, or as it is where its type is no narrower."""
    return x.to(wide_type(x.dtype))


@dataclass(frozen=True)
class Wide:
    """`velocity`, with its answers widened."""

    velocity: Velocity

    def __call__(self, x: Tensor, t: Tensor, cond: Cond, **more: Tensor) -> Tensor:
        """At least float32."""
        return widened(self.velocity(x, t, cond, **more))

    @property
    def rescale(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """What becomes of the velocity under guidance, see `stages/core/guidance.py`."""
        return getattr(self.velocity, "rescale", None)

    @property
    def away(self) -> Guiding | None:
        """How the velocity is guided, where it is in its own way."""
        return getattr(self.velocity, "away", None)
