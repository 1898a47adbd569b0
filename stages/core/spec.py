"""How a model is sampled: the part of a student that is not weights."""

from stages.core.config import config
from stages.core.ranges import MAX_STEPS, Guidance, Unit


@config
class SamplerSpec:
    """A student carries this, so that nobody has to guess how it wants to be called."""

    rule: str
    """Step rule, a key of `stages.samplers.RULES`."""
    times: tuple[Unit, ...]
    """The grid from 1.0 (noise) down to 0.0 (data); one step fewer than entries."""
    guidance: Guidance
    """Classifier-free guidance; 1 is none."""

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.times, self.times[1:], strict=False))
        if len(self.times) < 2 or self.times[0] != 1.0 or self.times[-1] != 0.0 or not falling:
            raise ValueError(f"times must fall from 1.0 to 0.0 with at least two entries, got {self.times}")

    @property
    def num_steps(self) -> int:
        """Jumps of the sampler."""
        return len(self.times) - 1


def even(num_steps: int, *, rule: str = "euler", guidance: float = 1.0) -> SamplerSpec:
    """`num_steps` equal steps of `rule` from noise to data."""
    if not 1 <= num_steps <= MAX_STEPS:
        raise ValueError(f"a sampler takes at least one step and at most {MAX_STEPS}, got nfe={num_steps}")
    times = (*(1 - i / num_steps for i in range(num_steps)), 0.0)
    return SamplerSpec(rule=rule, times=times, guidance=guidance)
