"""The derivative of a network along a direction, exactly or from two more calls: the choice is a knob.

Source: forward mode, as MeanFlow (arXiv:2505.13447) and sCM (arXiv:2410.11081) take it; central differences, as FastGen
and rCM do for attention that has no forward mode. torch's fast attention has none, and is left out while it is needed.

The exact derivative is that of all that a network says of time. One that embeds 1000 t, as checkpoints and our teachers
do, has waves of length 2 pi / 1000 in it, whose slopes training never saw: the exact dv/dt of the digits' teacher along
its trajectories is 4 to 9, of which the change over .02 explains a tenth to a third. A difference over a step that is
long beside these waves has the slope that the trajectories have.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from stages.core.config import config
from stages.core.path import expand


@config
class Forward:
    """`torch.func.jvp`: exact, at the price of a second call."""

    name: Literal["jvp"]


@config
class Difference:
    """A difference over 2 `step`: works with any network, at the price of two calls."""

    name: Literal["difference"]
    step: Annotated[float, Field(gt=0, le=0.1, allow_inf_nan=False)]
    """To both sides, in time; to one side where there is no room on the other."""


Derivative = Annotated[Forward | Difference, Field(discriminator="name")]
Room = tuple[Tensor, Tensor]
"""How far behind and ahead of a point a function is defined, [B] each, along a direction."""


@torch.no_grad()
def along(
    f: Callable[..., Tensor],
    point: tuple[Tensor, ...],
    direction: tuple[Tensor, ...],
    how: Forward | Difference,
    room: Room,
) -> Tensor:
    """The derivative of f(*point) along `direction`, which has the shapes of `point`; it carries no gradient."""
    if isinstance(how, Forward):
        with sdpa_kernel(SDPBackend.MATH):
            return torch.func.jvp(f, point, direction)[1]
    ahead = room[1].clamp_max(how.step)
    behind = torch.minimum(2 * how.step - ahead, room[0])

    def value(by: Tensor) -> Tensor:
        return f(*(x + expand(by, x) * d for x, d in zip(point, direction, strict=True)))

    made = value(ahead)
    return (made - value(-behind)) / expand(ahead + behind, made)
