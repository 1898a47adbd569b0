"""What a number in a configuration may be, as types that pydantic checks: every one is finite and has both ends.

An upper end beyond anything sensible still tells a slip of the keyboard before it fills a machine's memory.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from stages.core.messages import pick

Unit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""A time or a share, both ends included."""

Part = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
"""A share that leaves something of the rest."""

Decay = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
"""A moving average's weight on its own past; 0 copies, and 1 would never move."""

Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
"""An optimiser's step size."""

Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]

Weight = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
"""Of a term in a sum, which may also be held against it."""

Guidance = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
"""w of classifier-free guidance: 1 is none, 0 the empty prompt."""

MAX_STEPS = 10_000
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
"""Of a time grid, all of which a sampler holds."""

Count = Annotated[int, Field(ge=1, le=10**12)]
NonNegativeCount = Annotated[int, Field(ge=0, le=10**12)]

Freedom = Annotated[int, Field(ge=1, le=10_000)]
"""Degrees of freedom of Student's t noise; many are Gaussian noise."""

Size = Annotated[int, Field(ge=1, le=2**16)]
"""Of a network or a sample, in one direction."""

Seed = Annotated[int, Field(ge=0, le=2**64 - 1)]
"""What torch takes, but no negative one."""


def check_levels(t_min: float, t_max: float) -> None:
    """ValueError unless the noise levels between `t_min` and `t_max` are an interval."""
    if t_min >= t_max:
        raise ValueError(f"t_min={t_min} must be less than t_max={t_max}")


def row_of(table: Mapping[str, Any], what: str) -> AfterValidator:
    """For a name: it must be one of `table`'s, whose rows are called `what` in the message."""

    def known(name: str) -> str:
        pick(table, name, what)
        return name

    return AfterValidator(known)
