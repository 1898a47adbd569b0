"""A sampler written down is what the sampler does."""

from typing import Literal

import pytest
import torch

from stages.core.config import config
from stages.core.path import LINEAR
from stages.core.spec import SamplerSpec, even
from stages.samplers import program as programs
from stages.samplers import sample
from stages.samplers.field import State
from stages.samplers.program import program
from stages.samplers.schedules import shifted
from tests.samplers.rigs import EVERY, choice, gaussian


def spec_of(name: str, times: tuple[float, ...]) -> SamplerSpec:
    return SamplerSpec(rule=choice("rule", name), schedule={"name": "explicit"}, times=times, guidance=1.0)


@pytest.mark.parametrize("name", sorted(EVERY.keys() - {"edm_heun", "student_t"}))
@pytest.mark.parametrize("times", [even(1).times, even(6).times, tuple(shifted(5, shift=3.0).tolist())])
def test_following_the_steps_gives_the_sample_to_the_last_bit(name, times):
    velocity = gaussian(LINEAR, 0.7, 0.4)
    noise, *drawn = torch.randn(99, 3, 1, generator=torch.Generator().manual_seed(0))
    fresh, again, values = iter(drawn), iter(drawn), [noise]
    steps = program(spec_of(name, times))
    for kind, *given in steps:
        match kind:
            case "velocity":
                made = velocity(values[given[0]], torch.full((3,), given[1]))
            case "noise":
                made = next(fresh)
            case "scale":
                made = given[1] * values[given[0]]
            case "add":
                made = torch.add(values[given[0]], values[given[1]], alpha=given[2])
        values.append(made)
    expected = sample(velocity, noise, times, EVERY[name], rng=lambda _node, _x: next(again))
    assert torch.equal(values[-1], expected.x0)
    assert sum(kind == "velocity" for kind, *_ in steps) == expected.nfe


def test_eulers_steps_are_a_call_and_a_sum():
    assert program(even(2)) == [["velocity", 0, 1.0], ["add", 0, 1, -0.5], ["velocity", 2, 0.5], ["add", 2, 3, -0.5]]


def test_a_rule_that_does_more_than_add_and_scale_cannot_be_written_down(monkeypatch):
    @config
    class Clamped:
        name: Literal["clamped"]

        def step(self, field, state, i, _draw):
            return State(field.data(state.x, i).clamp(-1, 1))

    monkeypatch.setattr(programs, "rule_of", lambda _choice: Clamped(name="clamped"))
    with pytest.raises(
        ValueError,
        match=r"rule clamped calls aten\.clamp.*: a saved pipeline only adds, multiplies",
    ):
        program(even(2, rule="clamped"))
