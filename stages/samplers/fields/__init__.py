"""What answers for the velocity in a network's place: fields that reuse, extrapolate, correct or blend its answers.

A field is its knobs and `over(network, grid, x)`, the `Field` of one run, whose memory goes where its samples go. A new
one is a new file and one line here; README.md above has the table.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Protocol

import pydantic
from torch import Tensor

from stages.core.config import check, members
from stages.samplers.field import Field
from stages.samplers.fields.bottleneck import Bottleneck
from stages.samplers.fields.dual_fast import DualFast
from stages.samplers.fields.early_exit import EarlyExit
from stages.samplers.fields.epsilon_scaling import EpsilonScaling
from stages.samplers.fields.faster_cache import FasterCache
from stages.samplers.fields.first_block_cache import FirstBlockCache
from stages.samplers.fields.guidance_interval import GuidanceInterval
from stages.samplers.fields.guidance_reuse import GuidanceReuse
from stages.samplers.fields.light_cache import LightCache
from stages.samplers.fields.mag_cache import MagCache
from stages.samplers.fields.nasa import NASA
from stages.samplers.fields.pab import PAB
from stages.samplers.fields.quantised import Quantised
from stages.samplers.fields.ras import RAS
from stages.samplers.fields.sada import SADA
from stages.samplers.fields.t_stitch import TStitch
from stages.samplers.fields.taylor_seer import TaylorSeer
from stages.samplers.fields.tea_cache import TeaCache
from stages.samplers.fields.time_shift import TimeShift
from stages.samplers.fields.time_tuner import TimeTuner
from stages.samplers.fields.token_merging import TokenMerging
from stages.samplers.fields.unchanged import Unchanged
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted

_Whole = TaylorSeer | MagCache | TeaCache | SADA | GuidanceInterval | GuidanceReuse | TStitch
_OfBlocks = FirstBlockCache | LightCache | EarlyExit | TokenMerging | PAB | FasterCache | RAS
_Cheaper = _Whole | _OfBlocks | Bottleneck | Quantised
AnyField = Annotated[
    _Cheaper | EpsilonScaling | TimeShift | TimeTuner | DualFast | NASA | Unchanged,
    pydantic.Field(discriminator="name"),
]
FIELDS = MappingProxyType(members(AnyField))
"""By name."""

Over = Callable[[Prompted, Grid, Tensor], Field]
"""(network, grid, x [B, ...]) -> the field of one run."""


class Answers(Protocol):
    """A field's knobs."""

    fixed: ClassVar[bool]
    tokens: ClassVar[bool]

    @property
    def name(self) -> str:
        """In the table of fields."""
        ...

    def fits(self, num_steps: int, guidance: float, /) -> None:
        """See `Knobs`."""
        ...

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """The field of one run from x [B, ...], the state at the grid's first node."""
        ...


def field_of(choice: Mapping[str, Any] | None) -> Answers | None:
    """The field that a name and its knobs choose; ValueError where there is no such field or knob."""
    return None if choice is None else check(AnyField, choice, "field")  # type: ignore[arg-type]


def over(answers: Answers | None) -> Over:
    """What makes the field of a run; None is the network itself."""
    return Field if answers is None else answers.over
