"""From a picture back to noise, and from there to another one: inversion, and editing by another prompt.

Each way asks a velocity for the noise that a picture comes of, and follows another velocity from there. No network is
asked at t = 0, where many have no answer: a step from the lower time up to t is made by the velocity at t.

- `euler`: by the model's own flow. One call a step is DDIM's inversion (Song et al. 2021, arXiv:2010.02502), off by as
  much as a step is; with more calls Euler's own step is undone by iteration (AIDI, Pan et al. 2023, arXiv:2309.04907).
- `rf_inversion`: RF-Inversion, Rout et al. 2024 (arXiv:2410.10792). Upwards v + gamma ((y1 - x) / (1 - t) - v), drawn
  to noise y1 ~ N(0, I), then downwards v + eta ((x - x0) / t - v), drawn to the picture. gamma > 0 alone loses it, and
  eta brings it back. The authors take 0.5, and 0.9 in the first steps.
- `bdia`: Zhang et al. 2023 (arXiv:2307.10829), exact: the same prompt leads back to the picture itself, whatever the
  network. The state before the picture is the first step of `euler`. The authors take 0.92 to 1 to edit.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

from pydantic import Field as Knob
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.path import LINEAR, expand
from stages.core.ranges import Unit
from stages.core.rng import normal_like
from stages.samplers import sample
from stages.samplers.bdia import BDIA, undone
from stages.samplers.field import Field, State, VelocityAt
from stages.samplers.grid import build


@config
class Euler:
    """By the model's own flow."""

    name: Literal["euler"]
    iterations: Annotated[int, Knob(ge=1, le=1000)]
    """Calls a step upwards."""

    def edited(self, x0: Tensor, old: VelocityAt, new: VelocityAt, times: Sequence[float], _rng: Generator) -> Tensor:
        """See `Inversion`."""
        return sample(new, self.inverted(Field(old, build(LINEAR, times), x0), x0), times, "euler").x0

    def inverted(self, field: Field, x0: Tensor, until: int = 0) -> Tensor:
        """The state at node `until` of the field's grid that x0 [B, ...] comes of."""
        times, x = field.grid.times.tolist(), x0
        for i in reversed(range(until, field.grid.num_steps)):
            below = x
            for _ in range(self.iterations):
                x = below + (times[i] - times[i + 1]) * field.velocity(x, i)
        return x


@config
class RFInversion:
    """By flows that are drawn to noise, and back to the picture."""

    name: Literal["rf_inversion"]
    gamma: Unit
    """How much to noise: 0 is the model's own flow."""
    eta: Unit
    """How much to the picture: 0 is the other prompt's own flow, and 1 the picture."""
    until: Unit
    """The time above which it is drawn there."""

    def edited(self, x0: Tensor, old: VelocityAt, new: VelocityAt, times: Sequence[float], rng: Generator) -> Tensor:
        """See `Inversion`."""
        noise = self.inverted(Field(old, build(LINEAR, times), x0), x0, normal_like(x0, rng))

        def drawn(x: Tensor, t: Tensor) -> Tensor:
            v, time = new(x, t), expand(t, x)
            return v + self.eta * (time > self.until) * ((x - x0) / time - v)

        return sample(drawn, noise, times, "euler").x0

    def inverted(self, field: Field, x0: Tensor, noise: Tensor) -> Tensor:
        """The state at the field's first node, drawn to `noise` [B, ...]."""
        times, x = field.grid.times.tolist(), x0
        for i in reversed(range(field.grid.num_steps)):
            v, below = field.velocity(x, i), times[i + 1]
            x = x + (times[i] - below) * (v + self.gamma * ((noise - x) / (1 - below) - v))
        return x


@config
class Exact:
    """By a rule that is symmetric in time."""

    name: Literal["bdia"]
    gamma: Annotated[float, Knob(ge=0.5, le=1, allow_inf_nan=False)]
    """As of the rule; what is rounded grows by 1 / gamma a step."""

    def edited(self, x0: Tensor, old: VelocityAt, new: VelocityAt, times: Sequence[float], _rng: Generator) -> Tensor:
        """See `Inversion`. ValueError for a single step, which has no state before."""
        if len(times) < 3:
            raise ValueError("bdia: a single step has no state before it; take two steps or more")
        grid, rule = build(LINEAR, times), BDIA(name="bdia", gamma=self.gamma)
        up, down = Field(old, grid, x0), Field(new, grid, x0)
        before = Euler(name="euler", iterations=1).inverted(up, x0, grid.num_steps - 1)
        noise, second = undone(up, x0, before, self.gamma)
        state = State(second, {"state": noise})
        for i in range(1, grid.num_steps):
            state = rule.step(down, state, i, lambda _node, x: x)
        return state.x


AnyInversion = Annotated[Euler | RFInversion | Exact, Knob(discriminator="name")]


class Inversion(Protocol):
    """The interface of each."""

    @property
    def name(self) -> str:
        """In the list."""
        ...

    def edited(self, x0: Tensor, old: VelocityAt, new: VelocityAt, times: Sequence[float], rng: Generator, /) -> Tensor:
        """x0 [B, ...] taken up to noise by `old`, the velocity under its own prompt, and down again by `new`.

        `times` fall from 1 to 0.
        """
        ...
