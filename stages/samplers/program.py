"""What a sampler computes, written down step by step, so that a saved model's own pipeline repeats it to the last bit.

A rule is followed once on a sample of one number, and all that it does to it is noted. Values are numbered in the order
in which they come; 0 is the noise that sampling starts from, and the last is the sample:

    ["velocity", i, t]   the network's velocity at value i and time t; with a second time, on average down to that
    ["plain", i, t]      the same without guidance
    ["varied", i, j, t]  the network's velocity at value i and time t, told value j as its noise z
    ["beside", i, t, w]  the velocity of its companion, under guidance w; told value j where there is one behind w
    ["noise"]            fresh standard normal noise
    ["scale", i, a]      a times value i
    ["add", i, j, a]     value i plus a times value j
    ["times", i, j]      value i times value j
    ["exp", i]           e to the power of value i
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stages.core.path import LINEAR
from stages.core.spec import SamplerSpec
from stages.samplers import rule_of
from stages.samplers.boundary_condition import tells_apart
from stages.samplers.field import State, blank, fixed
from stages.samplers.fields import field_of, over
from stages.samplers.grid import build
from stages.samplers.of_tokens import suits
from stages.samplers.prompted import Prompted

Step = list[str | int | float]


def program(spec: SamplerSpec) -> list[Step]:
    """The steps of a sampler; ValueError for a rule or a field that does to a sample what has no word here."""
    rule = fixed(rule_of(spec.rule), "a saved pipeline")
    suits(rule, None)
    tells_apart(rule)
    noise = blank(rule, torch.float64)
    tape = _Tape(f"sampler rule {spec.called}", noise)
    field, state = (
        over(field_of(spec.field))(_Noted(tape, spec.guidance), build(LINEAR, spec.times), noise),
        State(noise),
    )
    with tape:
        for node in range(spec.num_steps):
            state = rule.step(field, state, node, tape.draw)
    return tape.until(state.x)


class _Tape(TorchDispatchMode):
    """Notes each operation on the sample, or on what was made of it, while it is on."""

    def __init__(self, sampler: str, noise: Tensor) -> None:
        super().__init__()
        self.sampler = sampler
        self._values = [noise]  # kept alive: a value is known by its identity
        self._steps: list[Step] = []

    def velocity(self, x: Tensor, t: Tensor, *, z: Tensor | None = None, **until: Tensor) -> Tensor:
        if z is not None:
            return self._note(torch.zeros_like(x), "varied", self._place(x), self._place(z), t.item())
        times = (time.item() for time in (t, *until.values()))
        return self._note(torch.zeros_like(x), "velocity", self._place(x), *times)

    def draw(self, _node: int, x: Tensor) -> Tensor:
        return self._note(torch.zeros_like(x), "noise")

    def until(self, x: Tensor) -> list[Step]:
        """The steps that end with x."""
        return self._steps[: self._place(x)]

    def __torch_dispatch__(self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        made, kwargs = func(*args, **(kwargs or {})), kwargs or {}
        places = [self._place(each) for each in args if isinstance(each, Tensor)]
        if all(place < 0 for place in places) or func is torch.ops.aten.zeros_like.default:
            return made  # coefficients, and what the network or the noise will be
        match func, places, [each for each in args if not isinstance(each, Tensor)]:
            case torch.ops.aten.mul.Tensor, [place], [float() | int() as factor]:
                return self._note(made, "scale", place, float(factor))
            case torch.ops.aten.add.Tensor, [first, second], [] if min(places) >= 0:
                return self._note(made, "add", first, second, float(kwargs.get("alpha", 1)))
            case torch.ops.aten.sub.Tensor, [first, second], [] if min(places) >= 0 and not kwargs:
                return self._note(made, "add", first, second, -1.0)
            case torch.ops.aten.mul.Tensor, [first, second], [] if min(places) >= 0:
                return self._note(made, "times", first, second)
            case torch.ops.aten.exp.default, [place], []:
                return self._note(made, "exp", place)
        raise ValueError(f"{self.sampler} calls {func}: a saved pipeline only adds, multiplies and takes exponentials")

    def plain(self, x: Tensor, t: Tensor) -> Tensor:
        return self._note(torch.zeros_like(x), "plain", self._place(x), t.item())

    def beside(self, x: Tensor, t: Tensor, guidance: float, told: Tensor | None) -> Tensor:
        more = [] if told is None else [self._place(told)]
        return self._note(torch.zeros_like(x), "beside", self._place(x), t.item(), guidance, *more)

    def _place(self, x: Tensor) -> int:
        return next((place for place, value in enumerate(self._values) if value is x), -1)

    def _note(self, value: Tensor, *step: str | float) -> Tensor:
        self._values.append(value)
        self._steps.append([*step])
        return value


class _Noted(Prompted):
    """The network of the tape, guided or not: of a saved pipeline's there is no more to be had."""

    def __init__(self, tape: _Tape, guidance: float) -> None:
        self._tape, self.guidance = tape, guidance

    @property
    def passes(self) -> int:
        return 1

    def __call__(self, x: Tensor, t: Tensor, **more: Tensor) -> Tensor:
        return self._tape.velocity(x, t, **more)

    def plain(self, x: Tensor, t: Tensor) -> Tensor:
        return self._tape.plain(x, t)

    def beside(self, x: Tensor, t: Tensor, guidance: float, told: Tensor | None = None) -> Tensor:
        return self._tape.beside(x, t, guidance, told)

    @property
    def share_beside(self) -> float:
        return 1.0

    def __getattr__(self, _part: str) -> Any:
        raise ValueError(
            f"{self._tape.sampler} asks a network for more than its answer: a saved pipeline only calls it"
        )
