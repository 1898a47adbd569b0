"""Our rules take the steps of diffusers' flow schedulers, on diffusers' own grids, to float32."""

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from stages.core.path import LINEAR
from stages.samplers import sample
from tests.samplers.rigs import mixture

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers

VELOCITY = mixture(LINEAR)
START = torch.linspace(-2, 2, 41)[:, None]


def label(x, sigma):
    return torch.full((len(x),), float(sigma), dtype=x.dtype)


def scheduled(scheduler, **options):
    """diffusers' own loop; the network is asked at the true sigma, not at the rounded timestep."""
    x, seen = START, []
    for index, timestep in enumerate(scheduler.timesteps):
        scheduler._step_index = None if index == 0 else scheduler._step_index
        sigma = scheduler.sigmas[scheduler.step_index or index]
        seen.append(float(sigma))
        x = scheduler.step(VELOCITY(x, label(x, sigma)), timestep, x, return_dict=False, **options)[0]
    return x, seen


def ours(scheduler, rule):
    times = list(dict.fromkeys(scheduler.sigmas.double().tolist()))  # Heun's list repeats each inner node
    return sample(VELOCITY, START, times, rule)


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
CASES = {
    "euler": (FlowMatchEulerDiscreteScheduler, {"shift": 3.0}, "euler"),
    "heun": (FlowMatchHeunDiscreteScheduler, {"shift": 3.0}, "heun"),
    "dpmpp_2m": (DPMSolverMultistepScheduler, FLOW, "dpmpp_2m"),
    "unipc": (UniPCMultistepScheduler, {**FLOW, "solver_order": 2, "solver_type": "bh2"}, "unipc"),
}


@pytest.mark.parametrize("n", [3, 8, 20])
@pytest.mark.parametrize("case", CASES)
def test_same_samples_on_the_schedulers_own_grid(case, n):
    kind, settings, rule = CASES[case]
    scheduler = kind(**settings)
    scheduler.set_timesteps(n)
    theirs, seen = scheduled(scheduler)
    solution = ours(scheduler, rule)
    assert torch.allclose(solution.x0, theirs, atol=2e-5), (solution.x0 - theirs).abs().max()
    assert solution.nfe == len(seen)
    other = "euler" if rule != "euler" else "heun"
    assert not torch.allclose(ours(scheduler, other).x0, theirs, atol=2e-4)


def test_what_keeps_us_from_calling_diffusers_multistep_schedulers():
    """Their flow grids never start at pure noise, and the network is told a time rounded down to 1/1000.

    If this fails, diffusers has changed: read README.md again.
    """
    dpm, unipc = DPMSolverMultistepScheduler(**FLOW), UniPCMultistepScheduler(**FLOW)
    for scheduler in (dpm, unipc):
        scheduler.set_timesteps(8)
        assert 0 < 1 - scheduler.sigmas[0].item() < 1e-3
        told = scheduler.timesteps.double() / 1000
        assert not torch.allclose(told, scheduler.sigmas[:-1].double(), atol=3e-4)
    dpm.set_timesteps(1500)
    assert len(set(dpm.timesteps.tolist())) < len(dpm.timesteps)


def test_an_unknown_time_is_taken_for_another_node_by_diffusers():
    """Matched by value: a start that is off by rounding silently begins at the last node."""
    scheduler = UniPCMultistepScheduler(**FLOW)
    scheduler.set_timesteps(8)
    off = scheduler.timesteps[0] + 1
    scheduler.step(torch.zeros(1), off, torch.zeros(1))
    assert scheduler.step_index - 1 == len(scheduler.timesteps) - 1
