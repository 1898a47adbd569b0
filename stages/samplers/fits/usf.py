"""The choices of `usf` whose samples come nearest to the flow's: the best with all steps alike, and then step by step.

In a sweep each step in turn is given every other choice, and keeps the one with the least mean squared distance between
the samples' ends and those of the flow, by Heun's rule on equal parts of each step; a sweep that changes nothing is the
last.
Source: the searched schedules of Liu et al. 2023 (USF, arXiv:2312.07243).
Differs: theirs is an evolution by the distance of generated images, over times and correctors too.
"""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field as Knob

from stages.core.config import config
from stages.core.ranges import Count, Guidance, Steps
from stages.samplers import sample
from stages.samplers.fits.dc_solver import followed
from stages.samplers.fits.model import Fitting
from stages.samplers.schedules import AnySchedule
from stages.samplers.spec import Sampler
from stages.samplers.usf import MOST, USF, Step


@config
class FitUSF:
    """The sampler without its choices, and what they are fitted to."""

    name: Literal["usf"]
    schedule: AnySchedule
    guidance: Guidance
    num_samples: Count
    parts: Steps
    """Of each step, that Heun's rule takes for the trajectory."""
    most: Annotated[int, Knob(ge=1, le=MOST)]
    """The highest order."""
    sweeps: Annotated[int, Knob(ge=0, le=100)]
    """Times that each step is gone through, at most; 0 is the best with all steps alike."""

    def fitted(self, model: Fitting) -> Sampler:
        """See `Fit`."""
        times, velocity = self.schedule.times().tolist(), model.under(self.guidance)
        truth = followed(velocity, model.noise, times, self.parts)[-1]

        def error(steps: tuple[Step, ...]) -> float:
            made = sample(velocity, model.noise, times, USF(name="usf", steps=steps)).x0
            return (made - truth).square().mean().item()

        num_steps = len(times) - 1
        alike = [(each,) * num_steps for each in self._choices]
        steps = min(alike, key=error)
        least = error(steps)
        for _ in range(self.sweeps):
            before = steps
            for place in range(num_steps):
                for other in self._choices:
                    changed = (*steps[:place], other, *steps[place + 1 :])
                    if other != steps[place] and (found := error(changed)) < least:
                        least, steps = found, changed
            if steps == before:
                break
        return Sampler(rule=USF(name="usf", steps=steps), schedule=self.schedule, guidance=self.guidance)

    @property
    def _choices(self) -> list[Step]:
        """The plainest first, which is taken where others are the same."""
        first = Step(prediction="data", order=1, slope="exact")
        return [first] + [
            replace(first, prediction=prediction, order=order, slope=slope)
            for order in range(2, self.most + 1)
            for prediction in ("data", "noise")
            for slope in ("exact", "half")
        ]
