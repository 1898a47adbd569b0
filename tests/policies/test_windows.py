"""Windows of stochastic steps: where they lie, what they leave to the ODE, and the gradient that is left."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from stages.core.rng import fork, stream
from stages.core.types import World
from stages.models.space import Points
from stages.policies import flow_grpo
from stages.training.windows import Drawn, Every, Sliding
from tests.policies.test_flow_grpo import CONFIG, group_batch, prepared, reward, tiny
from tests.training.gaussian import GaussianVelocity, ShiftedVelocity

MIX = replace(
    CONFIG,
    rollout_steps=10,
    window=Sliding(name="sliding", size=3, passes=1.0, rest_share=1.0),
    shift=3.0,
    shared_start=True,
    advantage_scale="none",
    summed="rewards",
)


def places(window: Sliding | Drawn | Every, progress: list[float], num_steps: int = 10) -> list[tuple[int, int]]:
    found = [window.place(num_steps, each, stream(seed, "place")) for seed, each in enumerate(progress)]
    return [(each.start, each.stop) for each in found]


def test_a_sliding_window_goes_from_noise_to_data_and_begins_again() -> None:
    once = [i / 14 for i in range(14)]
    assert places(MIX.window, once) == [(i // 2, i // 2 + 3) for i in range(14)]
    twice = places(replace(MIX.window, passes=2.0), once)
    assert twice == [(i % 7, i % 7 + 3) for i in range(14)]
    half = places(replace(MIX.window, passes=0.5), once)
    assert half[-1] == (3, 6)
    assert places(Every(name="every"), [0.0, 0.9]) == [(0, 9), (0, 9)]


def test_a_drawn_window_lies_anywhere_in_its_range() -> None:
    found = set(places(Drawn(name="drawn", size=2, until=5, rest_share=1.0), [0.0] * 60))
    assert found == {(0, 2), (1, 3), (2, 4), (3, 5)}


def affine(cfg: flow_grpo.Config, first: int, size: int) -> Iterator[tuple[float, float, float]]:
    """(A, c, C) of each step for data N(1, .25): x' = A x + .. + C z, and its slope c by the velocity."""
    nodes = flow_grpo.times_of(cfg)
    for k, (t, t_next) in enumerate(pairwise(nodes)):
        slope = (t - (1 - t) / 4) / ((1 - t) ** 2 / 4 + t**2)
        step = cfg.kernel.transition(torch.tensor(nodes, dtype=torch.float64), torch.tensor([k]))
        x, v, std = (1.0, t_next - t, 0.0)
        if first <= k < first + size:
            x, v, std = (each.item() for each in (step.x_weight, step.v_weight, step.std))
        yield x + v * slope, v, std


def rolled(cfg: flow_grpo.Config, groups: int, size: int, progress: float) -> tuple[World, dict[str, Tensor]]:
    nets = {"student": ShiftedVelocity(GaussianVelocity(1.0, 0.5)), "reference": GaussianVelocity(1.0, 0.5)}
    world = World(nets=nets, space=Points((1, 1, 1), torch.float64), reward=reward, progress=progress)
    return world, dict(flow_grpo.prepare(world, group_batch(groups, size), stream(0, "prepare"), cfg))


@pytest.mark.parametrize("first", [0, 3, 6])
def test_samples_vary_by_the_windows_noise_alone_and_the_gradient_is_that_of_its_steps(first: int) -> None:
    world, given = rolled(MIX, 500, 200, (first + 0.5) / 7)
    assert given["first"].item() == first
    steps = list(affine(MIX, first, 3))
    onward = [math.prod(a for a, _, _ in steps[k + 1 :]) for k in range(10)]
    variance = sum((p * std) ** 2 for p, (_, _, std) in zip(onward, steps, strict=True))
    assert given["reward"].reshape(500, 200).var(dim=1).mean().item() == pytest.approx(variance, rel=0.02)
    slope = sum(onward[k] * steps[k][1] for k in range(first, first + 3))
    value, metrics = flow_grpo.loss(world, given, stream(0, "loss"), MIX)
    (found,) = torch.autograd.grad(value, world.nets["student"].shift)
    assert -3 * found.item() == pytest.approx(slope * 199 / 200, rel=0.05)
    assert float(metrics["ratio_gap"]) < 1e-12


def test_what_comes_before_the_window_and_after_it_is_the_ode() -> None:
    world, given = rolled(MIX, 2, 6, 0.5)
    nodes, cond = flow_grpo.times_of(MIX), group_batch(2, 6)["cond"]

    def euler(x: Tensor, times: tuple[float, ...]) -> Tensor:
        for t, t_next in pairwise(times):
            x = x - (t - t_next) * world.nets["student"](x, torch.full((12,), t, dtype=x.dtype), cond)
        return x

    noise = world.space.noise(2, fork(stream(0, "prepare"), "starts")[0]).repeat_interleave(6, dim=0)
    assert given["states"].shape[1] == 4
    torch.testing.assert_close(given["states"][:, 0], euler(noise, nodes[:4]))
    torch.testing.assert_close(given["reward"], euler(given["states"][:, -1], nodes[6:]).flatten())


@pytest.mark.parametrize("share", [0.2, 0.4, 0.9])
def test_fewer_steps_after_the_window_end_at_data_wherever_it_lies(share: float) -> None:
    nodes = flow_grpo.times_of(MIX)
    for stop in range(3, 10):
        rest, rule = flow_grpo.remaining(nodes[stop:], replace(MIX.window, rest_share=share))
        assert (rest[0], rest[-1]) == (nodes[stop], 0)
        assert len(rest) - 1 == math.ceil(share * (10 - stop))
        assert rule == ("euler" if len(rest) == len(nodes[stop:]) else "dpmpp_2m")
    whole, flash = (
        rolled(MIX, 300, 8, 0.0)[1],
        rolled(replace(MIX, window=replace(MIX.window, rest_share=share)), 300, 8, 0.0)[1],
    )
    assert torch.equal(whole["states"], flash["states"])
    assert torch.corrcoef(torch.stack([whole["reward"], flash["reward"]]))[0, 1] > 0.999  # it only has to rank


def test_windows_too_large_are_refused() -> None:
    with pytest.raises(ValueError, match=r"window.size=10 exceeds the 9 steps of rollout_steps=10 that may have noise"):
        replace(MIX, window=replace(MIX.window, size=10))
    with pytest.raises(ValueError, match=r"steps_per_update=3 exceeds the 2 stochastic steps of rollout_steps=10"):
        replace(MIX, window=replace(MIX.window, size=2))
    for until in (2, 10):
        with pytest.raises(ValueError, match=rf"window.until={until} must be from window.size=3 to 9"):
            replace(MIX, window=Drawn(name="drawn", size=3, until=until, rest_share=1.0))


def test_a_window_of_all_steps_is_none() -> None:
    wide = replace(CONFIG, window=Sliding(name="sliding", size=3, passes=1.0, rest_share=1.0))
    for key, value in prepared(tiny(), CONFIG).items():
        assert torch.equal(value, prepared(tiny(), wide)[key])
