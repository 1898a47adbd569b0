"""How a model is sampled: the part of a student that is not weights."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator

from stages.core.config import config
from stages.core.messages import shown
from stages.core.ranges import MAX_STEPS, Guidance, Unit


def from_noise_to_data(times: Sequence[float]) -> Sequence[float]:
    """`times`, if they fall from 1.0 (noise) to 0.0 (data); ValueError otherwise."""
    falling = all(a > b for a, b in pairwise(times))
    if len(times) < 2 or times[0] != 1.0 or times[-1] != 0.0 or not falling:
        raise ValueError(f"times must fall from 1.0 to 0.0 with at least two entries, got {shown(times)}")
    return times


def _named(choice: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(choice.get("name"), str):
        raise ValueError(f"should have a name beside its knobs (got {shown(choice)})")
    return _plain(choice)


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


Choice = Annotated[dict[str, Any], AfterValidator(_named)]
"""A row of a table by its `name`, with the knobs that the row has. Whoever has the table checks them."""


@config
class SamplerSpec:
    """A student carries this, so that nobody has to guess how it wants to be called."""

    rule: Choice
    """Step rule, of `stages.samplers.RULES`."""
    schedule: Choice
    """What made the times, of `stages.samplers.schedules.SCHEDULES`."""
    times: Annotated[tuple[Unit, ...], AfterValidator(from_noise_to_data)]
    """The grid from 1.0 (noise) down to 0.0 (data); one step fewer than entries."""
    guidance: Guidance
    """Classifier-free guidance; 1 is none."""
    field: Choice | None = None
    """What answers for the velocity, of `stages.samplers.fields.FIELDS`; None is the network itself."""

    @property
    def num_steps(self) -> int:
        """Jumps of the sampler."""
        return len(self.times) - 1

    @property
    def called(self) -> str:
        """Its rule and its field, for messages."""
        return self.rule["name"] + (f" under field {self.field['name']}" if self.field else "")


def even(num_steps: int, *, rule: str = "euler", guidance: float = 1.0, **knobs: float | str) -> SamplerSpec:
    """`num_steps` equal steps from noise to data, of a `rule` with its `knobs`."""
    if not 1 <= num_steps <= MAX_STEPS:
        raise ValueError(f"a sampler takes at least one step and at most {MAX_STEPS}, got nfe={num_steps}")
    times = (*(1 - i / num_steps for i in range(num_steps)), 0.0)
    schedule = {"name": "uniform", "steps": num_steps}
    return SamplerSpec(rule={"name": rule, **knobs}, schedule=schedule, times=times, guidance=guidance)
