"""What families with a noise schedule share: the change of variables, and schedulers for their students."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from stages.core.spec import SamplerSpec
from stages.models.families.base import Family, Words

if TYPE_CHECKING:
    from stages.models.checkpoint import Checkpoint


class NoiseSchedule(Family):
    """A variance-preserving model, which is told its level s(t) in place of a time.

    What it takes for the data is (z - b e) / a: errors of e grow by b / a, which is 15 or 157 near pure noise. An e
    that is rounded to bfloat16 leaves them at 0.02 or 0.3 of the data's spread; hence the last layer is float32.
    """

    multiple = 8
    whole_levels: ClassVar[bool] = False
    """Whether the scheduler for Euler's rule knows whole levels alone, too."""

    def velocity(self, body: Any, x: Tensor, t: Tensor, words: Words, at: "Checkpoint") -> Tensor:
        """The flow's, by `stages/models/vp.py`."""

        def ask(z: Tensor, level: Tensor) -> Tensor:
            return self.ask(body, z.to(at.dtype), level, words, at).float()

        return at.schedule.velocity(x, t, ask)

    def levels(self, at: "Checkpoint", num_steps: int) -> tuple[float, ...]:
        """Levels at even distances down from the last, pure noise in its place, or before it for stock parity."""
        schedule = at.schedule
        count = len(schedule.ratios)
        asked = [round(count - count * i / num_steps) - 1 for i in range(num_steps)]
        times = schedule.time_at(torch.tensor(asked)).tolist()
        stock = schedule.above == "stock" and times[0] < 1
        return (1.0, *(times if stock else times[1:]), 0.0)

    def fitted(self, at: "Checkpoint", spec: SamplerSpec) -> SamplerSpec:
        """Times of whole levels, since schedulers that add noise know no others; the first stays pure noise."""
        if spec.rule["name"] != "renoise" and not self.whole_levels:
            return spec
        schedule = at.schedule
        levels = schedule.level(torch.tensor(spec.times[1:-1], dtype=torch.float64)).round().long()
        times = (1.0, *schedule.time_at(levels).tolist(), 0.0)
        return replace(spec, schedule={"name": "explicit", "at": list(times)}, times=times)

    def scheduler(self, at: "Checkpoint", spec: SamplerSpec) -> tuple[Any, dict[str, Any]] | None:
        """LCM's, which takes the data and adds noise; for Euler's rule, Euler's in the coordinates of Karras et al.

        The latter's first step is ours up to 3e-4 of the noise, where noise is predicted: what pure noise is, no
        schedule that ends before it can say. Its first sigma is chosen so that the network's share in the step is
        exact. Where v is predicted there is no such sigma.
        """
        from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
        from diffusers.schedulers.scheduling_lcm import LCMScheduler

        schedule, words = at.schedule, at.config("scheduler")
        beginning = {name: words[name] for name in _WORDS if name in words}
        levels = schedule.level(torch.tensor(spec.times[:-1], dtype=torch.float64)).tolist()
        if spec.rule["name"] == "renoise" or (spec.rule["name"] == "euler" and spec.num_steps == 1):
            return LCMScheduler(**beginning), {"timesteps": [round(level) for level in levels]}
        clamped = schedule.above == "clamp"
        if spec.rule["name"] != "euler" or (clamped and schedule.prediction != "epsilon"):
            return None
        last = float((-schedule.ratios[-1]).exp())
        sigmas = [t / (1 - t) for t in spec.times[1:]]
        if clamped:
            sigmas = [sigmas[0] + last, *sigmas]
        made = EulerDiscreteScheduler(**beginning, timestep_spacing="leading")  # noise of variance 1 + sigma^2
        return made, {"sigmas": sigmas}


_WORDS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr",
    "prediction_type",
)  # fmt: skip
