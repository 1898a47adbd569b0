"""Which steps of a roll-out have noise, and so may be trained: all but the last, or a few that follow each other."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator

from stages.core.config import config
from stages.core.ranges import Positive, Steps

Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


@config
class Every:
    """All but the last."""

    name: Literal["every"]

    def place(self, num_steps: int, _progress: float, _rng: Generator) -> range:
        """The stochastic ones of `num_steps` steps."""
        return range(num_steps - 1)


@config
class Sliding:
    """A window that goes from noise to data as training goes on, and begins again at its end."""

    name: Literal["sliding"]
    size: Steps
    """Steps that are stochastic."""
    passes: Positive
    """How often it goes over all steps within the budget; less than 1 leaves out those near data."""
    rest_share: Share
    """Of the steps after the window, how many a roll-out takes, by DPM-Solver++(2M); 1 is all of them, by Euler's."""

    def place(self, num_steps: int, progress: float, _rng: Generator) -> range:
        """The stochastic ones of `num_steps` steps, at `progress` of the budget, in [0, 1)."""
        places = num_steps - self.size
        first = int(progress * self.passes * places) % places
        return range(first, first + self.size)


@config
class Drawn:
    """A window whose place is drawn in every iteration."""

    name: Literal["drawn"]
    size: Steps
    """Steps that are stochastic."""
    until: Steps
    """It lies within the first so many steps."""
    rest_share: Share
    """Of the steps after the window, how many a roll-out takes, by DPM-Solver++(2M); 1 is all of them, by Euler's."""

    def place(self, _num_steps: int, _progress: float, rng: Generator) -> range:
        """The stochastic ones."""
        first = int(torch.randint(self.until - self.size + 1, (), generator=rng, device=rng.device))
        return range(first, first + self.size)


Window = Annotated[Every | Sliding | Drawn, Field(discriminator="name")]


def check_window(window: Every | Sliding | Drawn, rollout_steps: int) -> int:
    """How many steps are stochastic; ValueError where the roll-out has too few for it."""
    if isinstance(window, Every):
        return rollout_steps - 1
    if window.size >= rollout_steps:
        raise ValueError(
            f"window.size={window.size} exceeds the {rollout_steps - 1} steps of rollout_steps={rollout_steps} that "
            "may have noise; lower it, or raise rollout_steps"
        )
    if isinstance(window, Drawn) and not window.size <= window.until < rollout_steps:
        raise ValueError(
            f"window.until={window.until} must be from window.size={window.size} to {rollout_steps - 1}, the steps of "
            f"rollout_steps={rollout_steps} that may have noise"
        )
    return window.size
