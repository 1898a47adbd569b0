"""Ancestral steps of a learned variance: the law of a Gaussian's samples, diffusers' steps, who is asked and when."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from stages.core.path import LINEAR, Path
from stages.core.rng import stream
from stages.core.spec import even
from stages.samplers import drive, rule_of
from stages.samplers.field import Field, drawing
from stages.samplers.grid import Grid, build
from stages.samplers.learned_variance import bounds
from stages.samplers.program import program
from stages.samplers.prompted import Prompted
from stages.samplers.spec import calls
from tests.samplers.rigs import F64, OF_PATHS, START, from_scheduler, gaussian, mixture, mixture_data

RULE = rule_of({"name": "learned_variance"})
TIMES = torch.tensor([0.97, 0.8, 0.55, 0.3, 0.04, 0.0], dtype=F64)


class Sized:
    """A network, and a companion whose answer goes by the time; it notes what it is told."""

    share_beside = 0.125

    def __init__(self, velocity, says) -> None:
        self.velocity, self.says, self.told = velocity, says, list[tuple[float, Tensor]]()

    def __call__(self, x: Tensor, t: Tensor, _cond: Tensor) -> Tensor:
        return self.velocity(x, t)

    def beside(self, x: Tensor, t: Tensor, _cond: Tensor, told: Tensor) -> Tensor:
        self.told.append((t[0].item(), told))
        return self.says(x, t[0].item())


def run(network: Sized, path: Path, times: Tensor, x: Tensor, draw):
    prompted = Prompted(network, torch.ones(len(x), 1, dtype=torch.int64))
    return drive(Field(prompted, build(path, times), x), x, RULE, rng=draw)


def wanted(grid: Grid, i: int, std: float) -> float:
    """v of step i for data N(., std^2): the posterior's variance, and what the data's own adds to it."""
    _, gain, least = grid.noisy(i, 1.0)
    alpha, sigma = grid.alpha[i], grid.sigma[i]
    variance = least**2 + gain**2 * (std * sigma) ** 2 / ((alpha * std) ** 2 + sigma**2)
    small, rise = bounds(grid, i)
    return (math.log(variance) - small) / rise


@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("times", [TIMES, torch.tensor([0.97, 0.5, 0.2], dtype=F64)], ids=["five", "two"])
@OF_PATHS
def test_the_right_variance_makes_a_gaussian_s_law_right_at_any_stride(path: Path, times: Tensor, std: float) -> None:
    grid = build(path, times)
    v = {grid.times[i].item(): wanted(grid, i, std) for i in range(grid.num_steps) if grid.sigma[i + 1] > 0}
    network = Sized(gaussian(path, 0.4, std), lambda x, t: torch.full_like(x, 2 * v[t] - 1))
    columns = iter(torch.eye(len(v) + 2, dtype=F64)[:, 1:].T)  # row 0 draws nothing, row k only the k-th
    begun = grid.alpha[0] * 0.4 + math.hypot(grid.alpha[0] * std, grid.sigma[0]) * next(columns)[:, None]
    ends = run(network, path, times, begun, lambda _node, _x: next(columns)[:, None]).x0.flatten()
    alpha, sigma = grid.alpha[-1], grid.sigma[-1]
    assert ends[0].item() == pytest.approx(alpha * 0.4, rel=1e-9)
    law = (alpha * std) ** 2 + sigma**2
    if sigma == 0:  # the last step's noise is left out, as always: what is left are means of the data
        a, s = grid.alpha[-2], grid.sigma[-2]
        law *= (a * std) ** 2 / ((a * std) ** 2 + s**2)
    assert (ends[1:] - ends[0]).square().sum().item() == pytest.approx(law, rel=1e-9)


@OF_PATHS
def test_the_bounds_are_of_a_point_and_of_data_of_variance_one(path: Path) -> None:
    for times in (TIMES, torch.tensor([0.97, 0.1], dtype=F64)):
        grid = build(path, times)
        for i in range(grid.num_steps - (grid.sigma[-1] == 0)):
            assert wanted(grid, i, 1.0) == pytest.approx(1, abs=1e-9)
            assert wanted(grid, i, 1e-9) == pytest.approx(0, abs=1e-9)
            assert bounds(grid, i)[1] > 0


@pytest.mark.parametrize("says", [-1.0, -0.3, 0.7, 1.0])
def test_its_steps_are_diffusers_where_the_path_keeps_variance(says: float) -> None:
    scheduler = DDPMScheduler(clip_sample=False, variance_type="learned_range")
    for name in ("betas", "alphas_cumprod"):
        setattr(scheduler, name, getattr(scheduler, name).double())
    scheduler.set_timesteps(10)
    path, x, rng = from_scheduler(scheduler.alphas_cumprod), START[:, None, None, None], stream(1, "draws")
    for timestep in scheduler.timesteps.tolist():
        alpha = scheduler.alphas_cumprod[timestep].sqrt()
        sigma = (1 - alpha.square()).sqrt()
        e = (x - alpha * mixture_data(x, alpha, sigma)) / sigma
        told = torch.cat([e, torch.full_like(e, says)], dim=1)
        x = scheduler.step(told, timestep, x, generator=rng).prev_sample
    times = torch.tensor([*((timestep + 1) / 1000 for timestep in range(900, -100, -100)), 0.0], dtype=F64)
    network = Sized(mixture(path), lambda x, _t: torch.full_like(x, says))
    begun = START[:, None, None, None]
    ours = run(network, path, times, begun, drawing(stream(1, "draws"), RULE))
    torch.testing.assert_close(ours.x0, x, atol=1e-9, rtol=1e-9)


def test_its_companion_is_told_the_velocity_and_sizes_each_element() -> None:
    velocity = gaussian(LINEAR, 0.4, 0.5)
    network = Sized(velocity, lambda x, _t: torch.where(x > x.median(), 1.0, -1.0))
    noise = torch.randn(4, 2, dtype=F64, generator=stream(0, "noise"))
    fresh = torch.ones_like(noise)
    found = run(network, LINEAR, torch.tensor(even(3).times), noise, lambda _node, _x: fresh)
    assert [time for time, _ in network.told] == [1.0, pytest.approx(2 / 3)], "the last step is without noise"
    torch.testing.assert_close(network.told[0][1], velocity(noise, torch.ones(4, dtype=F64)))
    assert found.cost == 3 + 2 * 0.125
    one = run(network, LINEAR, torch.tensor([1.0, 0.5]), noise, lambda _node, _x: fresh).x0
    grid = build(LINEAR, [1.0, 0.5])
    small, rise = bounds(grid, 0)
    still = 0.5 * (noise - velocity(noise, torch.ones(4, dtype=F64)))  # of data, without noise
    width = torch.where(noise > noise.median(), math.exp((small + rise) / 2), math.exp(small / 2))
    torch.testing.assert_close(one, still + width)


def test_it_is_written_down_for_a_saved_pipeline() -> None:
    steps = program(even(2, rule="learned_variance"))
    assert [step[0] for step in steps].count("exp") == [step[0] for step in steps].count("times") == 1
    [beside] = [step for step in steps if step[0] == "beside"]
    assert beside == ["beside", 0, 1.0, 1.0, 1]
    assert calls(even(4, rule="learned_variance")) == 7, "at most, where it is not known what the companion takes"
