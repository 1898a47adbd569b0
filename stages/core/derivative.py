"""The derivative of a network along a direction, exactly or from two more calls: the choice is a knob.

Source: forward mode, as MeanFlow (arXiv:2505.13447) and sCM (arXiv:2410.11081) take it; central differences, as FastGen
and rCM do for attention that has no forward mode. torch's fast attention has none, and is left out while it is needed.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from stages.core.config import config


@config
class Forward:
    """`torch.func.jvp`: exact, at the price of a second call."""

    name: Literal["jvp"]


@config
class Difference:
    """A central difference: works with any network, at the price of two calls."""

    name: Literal["difference"]
    step: Annotated[float, Field(gt=0, le=0.1, allow_inf_nan=False)]
    """h, to both sides. The network is asked as far outside of its times; in float32, 1e-3 to 1e-2 is sensible."""


Derivative = Annotated[Forward | Difference, Field(discriminator="name")]


@torch.no_grad()
def along(
    f: Callable[..., Tensor], point: tuple[Tensor, ...], direction: tuple[Tensor, ...], how: Forward | Difference
) -> Tensor:
    """The derivative of f(*point) along `direction`, which has the shapes of `point`; it carries no gradient."""
    if isinstance(how, Difference):
        ahead, behind = (
            f(*(x + sign * how.step * d for x, d in zip(point, direction, strict=True))) for sign in (1, -1)
        )
        return (ahead - behind) / (2 * how.step)
    with sdpa_kernel(SDPBackend.MATH):
        return torch.func.jvp(f, point, direction)[1]
