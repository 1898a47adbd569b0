"""GRPO on a student of a few calls whose map is exact: its steps have a density, and the last of them has none."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.path import expand
from stages.core.rng import stream
from stages.core.types import World
from stages.models.space import Points
from stages.policies import flow_grpo
from stages.samplers import rule_of
from stages.samplers.anchored import Anchored
from stages.samplers.cps import CPS
from stages.samplers.flow_sde import FlowSDE
from stages.samplers.rollout import rolled_out
from tests.policies.test_flow_grpo import CONFIG, group_batch, reward
from tests.training.gaussian import tokens

RHO = (0.25 / (0.25 * 0.25 + 0.25)) ** 0.5
"""Of the second call of two: the slope of its map at t = .5."""


class Map(nn.Module):
    """Jumps from any t to a sample of N(1, .25), as v = (x - sample) / t; its first call misses by `bias`."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, _cond: Tensor) -> Tensor:
        t = expand(t, x)
        sample = 1 + (0.25 / ((1 - t) ** 2 * 0.25 + t**2)).sqrt() * (x - (1 - t)) + self.bias * (t == 1)
        return (x - sample) / t


def student(steps: int, **changes: object) -> flow_grpo.Config:
    return replace(
        CONFIG,
        **{
            "rollout_steps": steps,
            "nfe": steps,
            "in_use": "kernel",
            "kernel": Anchored(name="anchored", depth=1.0),
            "steps_per_update": steps - 1,
            "advantage_scale": "none",
            **changes,
        },
    )


def rolled(cfg: flow_grpo.Config, bias: float, groups: int, size: int) -> tuple[World, dict[str, Tensor]]:
    nets = {"student": Map(bias), "reference": Map()}
    world = World(nets=nets, space=Points((1, 1, 1), torch.float64), reward=reward)
    return world, dict(flow_grpo.prepare(world, group_batch(groups, size), stream(0, "prepare"), cfg))


def slope_of(world: World, given: dict[str, Tensor], cfg: flow_grpo.Config) -> float:
    value, metrics = flow_grpo.loss(world, given, stream(0, "loss"), cfg)
    assert float(metrics["ratio_gap"]) < 1e-12
    return torch.autograd.grad(value, world.nets["student"].bias)[0].item()


@pytest.mark.parametrize("steps", [2, 4])
def test_a_roll_out_has_the_law_of_the_student_in_use(steps: int) -> None:
    cfg = student(steps)
    _, given = rolled(cfg, 0.0, 1000, 200)
    assert given["reward"].mean().item() == pytest.approx(1, abs=5e-3)
    assert given["reward"].var().item() == pytest.approx(0.25, rel=0.01)
    assert given["log_prob"].shape == (200_000, steps - 1)
    spec = flow_grpo.sampler(cfg)
    noise = torch.randn(200_000, 1, 1, 1, dtype=torch.float64, generator=stream(1, "noise"))
    used = rolled_out(Map(), noise, spec.times, tokens(200_000), rule=rule_of(spec.rule), rng=stream(2, "use"))[:, -1]
    assert used.var().item() == pytest.approx(0.25, rel=0.01)


def test_the_gradient_of_two_calls_is_the_first_ones_share() -> None:
    # d E[x0] / d bias = (1 - t') rho = .4472; the baseline takes its part of it
    for size, share in ((8, 7 / 8), (200, 199 / 200)):
        world, given = rolled(student(2), 0.0, 240_000 // size, size)
        assert -slope_of(world, given, student(2)) == pytest.approx(0.5 * RHO * share, abs=0.008)


def test_the_optimum_of_reward_and_kl_is_the_known_one() -> None:
    # E[x0] moves by (rho t')^2 / beta, with the variance kept
    cfg = student(2, beta_kl=0.5)
    best = (RHO * 0.5) ** 2 / 0.5 / (0.5 * RHO)
    slopes = [slope_of(*rolled(cfg, bias, 600, 400), cfg) for bias in (0.0, best, 2 * best)]
    assert slopes == pytest.approx([-0.5 * RHO, 0, 0.5 * RHO], abs=0.01)


def test_normalised_ratios_weigh_the_calls_by_what_they_move() -> None:
    # (1 - t')^2 / t'^2 would be 9 at t' = .25 and .11 at .75; z.d leaves (1 - t')
    cfg = student(4, ratio="normalised")
    times = torch.tensor(flow_grpo.times_of(cfg), dtype=torch.float64)
    step = cfg.kernel.transition(times, torch.arange(3))
    fisher = (step.v_weight / times[:-2].mean() / step.std).square()  # only its order
    assert fisher[2] > 9 * fisher[0]
    given = rolled(cfg, 0.0, 4, 6)[1]
    moved = World(nets={"student": Map(0.1), "reference": Map()}, space=Points((1, 1, 1), torch.float64), reward=reward)
    noise = ((given["states"][:, 1] - given["means"][:, 0]) / 0.75).flatten()
    first = (given["advantage"] * (noise * 0.25 * 0.1).exp()).mean()
    value, _ = flow_grpo.loss(moved, given, stream(0, "loss"), replace(cfg, clip_range=10.0))
    rest = given["advantage"].mean() * 2
    assert value.item() == pytest.approx(-((first + rest) / 3).item())


def test_one_call_and_other_steps_than_those_in_use_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rollout_steps=1: the step to data is the only one, and has no density"):
        student(1, steps_per_update=1)
    with pytest.raises(ValueError, match=r"rollout_steps=4 differs from nfe=8: kernel.name=anchored is for a student"):
        student(4, nfe=8)
    with pytest.raises(ValueError, match=r"guidance=2.0: kernel.name=anchored is for a student that maps"):
        student(4, guidance=2.0)
    with pytest.raises(ValueError, match=r"kernel.depth=0.0: a roll-out without noise has no densities"):
        student(4, kernel=Anchored(name="anchored", depth=0.0))


def test_the_sampler_in_use_is_the_kernel_or_the_ode() -> None:
    assert flow_grpo.sampler(student(4)).rule == {"name": "anchored", "depth": 1.0}
    assert flow_grpo.sampler(student(4, in_use="ode")).rule == {"name": "euler"}
    assert flow_grpo.sampler(student(4, kernel=CPS(name="cps", noise_level=0.9))).rule["name"] == "cps"
    other = student(4, kernel=FlowSDE(name="flow_sde", noise_level=0.7), nfe=8)
    assert flow_grpo.sampler(other).rule == {"name": "flow_sde", "noise_level": 0.7}
