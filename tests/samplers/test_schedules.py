"""Schedules, and samplers as parameters state them."""

import pytest
import torch

from stages.core.config import check
from stages.core.path import LINEAR, VP_COSINE, VP_LINEAR
from stages.core.spec import even
from stages.samplers.schedules import SCHEDULES, karras, log_uniform, shifted, times_at, uniform
from stages.samplers.spec import Sampler
from tests.samplers.rigs import F64, choice

CHOICES = {name: choice("schedule", name) for name in SCHEDULES} | {
    "explicit": {"name": "explicit", "at": [1.0, 0.9, 0.6, 0.3, 0.0]}
}


def stated(rule=None, schedule=None, **changes):
    section = {"rule": rule or {"name": "euler"}, "schedule": schedule or {"name": "uniform", "steps": 4}}
    return check(Sampler, {**section, "guidance": 1.0, **changes}, "s")


@pytest.mark.parametrize("name", SCHEDULES)
def test_contract_of_every_schedule(name):
    asked = CHOICES[name] if name == "explicit" else {**CHOICES[name], "steps": 4}
    sampler = stated(schedule=asked)
    times = sampler.schedule.times()
    assert times.dtype == F64
    assert times[0] == 1
    assert times[-1] == 0
    assert (times.diff() < 0).all()
    spec = sampler.spec
    assert spec.num_steps == 4
    assert spec.times == tuple(times.tolist())
    assert spec.schedule["name"] == name, "who reads a model sees what made its times"
    if name != "explicit":
        assert stated(schedule={**asked, "steps": 1}).spec.times == (1.0, 0.0)


def test_even_steps_are_the_uniform_schedule():
    for steps in range(1, 65):
        assert stated(schedule={"name": "uniform", "steps": steps}).spec == even(steps)


def test_schedules_of_functions():
    for times in (shifted(7, shift=3.0), karras(7), log_uniform(7), karras(7, path=VP_LINEAR)):
        assert len(times) == 8
    assert shifted(4, shift=1.0).equal(uniform(4))
    assert shifted(2, shift=3.0)[1] == 0.75
    with pytest.raises(ValueError, match="at least one step"):
        uniform(0)
    with pytest.raises(ValueError, match="at least two entries"):
        karras(0)


@pytest.mark.parametrize("path", [LINEAR, VP_COSINE, VP_LINEAR], ids=lambda p: p.name)
def test_times_are_found_from_noise_levels(path):
    rho = torch.tensor([50.0, 1.0, 2e-3, 1e-6], dtype=F64)
    assert torch.allclose(path.rho(times_at(rho, path)), rho, rtol=1e-9)


def test_karras_levels_are_even_in_their_seventh_root():
    levels = LINEAR.rho(karras(6)[1:-1])
    roots = levels ** (1 / 7)
    assert torch.allclose(roots.diff(), roots.diff().mean().expand(4), rtol=1e-9)
    assert levels[-1].item() == pytest.approx(0.002, rel=1e-9)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"rule": {"name": "edm_heun"}}, r"^s\.rule\.name: 'edm_heun' is none of euler, .*; did you mean 'heun'\?"),
        ({"rule": {"name": "cps"}}, r"^s\.rule\.noise_level: missing"),
        ({"rule": {"name": "cps", "noise_level": 2.0}}, r"^s\.rule\.noise_level: .*less than or equal to 1"),
        ({"rule": {"name": "euler", "noise_level": 0.7}}, r"^s\.rule\.noise_level: unknown parameter"),
        ({"rule": "euler"}, r"^s\.rule: should be a mapping"),
        ({"schedule": {"name": "uniform", "steps": 0}}, r"^s\.schedule\.steps: .*greater than or equal to 1"),
        ({"schedule": {"name": "uniform", "shift": 3.0}}, r"s\.schedule\.shift: unknown parameter"),
        ({"schedule": {"name": "shiftd", "steps": 2}}, r"^s\.schedule\.name: 'shiftd'.*; did you mean 'shifted'\?"),
        ({"schedule": {"name": "shifted", "steps": 2, "shift": 0.0}}, r"^s\.schedule\.shift: .*greater than 0"),
        ({"schedule": {"name": "explicit", "at": [1.0, 0.2, 0.5, 0.0]}}, r"^s\.schedule\.at: times must fall"),
        ({"schedule": {"name": "log_uniform", "steps": 3, "hi": 1.0, "lo": 2.0}}, r"^s\.schedule: hi=1\.0 must be"),
        ({"guidance": -1.0}, r"^s\.guidance: .*greater than or equal to 0"),
        ({"steps": 4}, r"^s\.steps: unknown parameter; valid keys: rule, schedule, guidance"),
    ],
)  # fmt: skip
def test_what_a_sampler_cannot_be_is_told_by_its_address(section, message):
    with pytest.raises(ValueError, match=message):
        stated(**section)
