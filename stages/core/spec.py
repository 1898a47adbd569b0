"""How a model is sampled: the part of a student that is not weights."""

from stages.core.config import config


@config
class SamplerSpec:
    """A student carries this, so that nobody has to guess how it wants to be called."""

    rule: str
    """Step rule, a key of `stages.samplers.RULES`."""
    times: tuple[float, ...]
    """The grid from 1.0 (noise) down to 0.0 (data); one step fewer than entries."""
    guidance: float
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
    if num_steps < 1:
        raise ValueError(f"a sampler needs at least one step, got nfe={num_steps}")
    times = (*(1 - i / num_steps for i in range(num_steps)), 0.0)
    return SamplerSpec(rule=rule, times=times, guidance=guidance)
