"""Flow-GRPO on the Gaussian whose policy gradient is a number."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.config import check
from stages.core.rng import stream
from stages.core.spec import even
from stages.core.types import World
from stages.models.space import Points
from stages.policies import flow_grpo
from stages.samplers.cps import CPS
from stages.samplers.dance_sde import DanceSDE
from stages.samplers.flow_sde import FlowSDE
from stages.samplers.kernels import grid_like as grid
from stages.training.kept import All
from stages.training.windows import Every
from tests.samplers.rigs import flow_sde_step
from tests.training.gaussian import GaussianVelocity, ShiftedVelocity, tokens
from tests.training.tiny import TinyNet

CONFIG = flow_grpo.Config(
    method="flow_grpo", rollout_steps=4, nfe=8, in_use="ode", shift=1.0, shared_start=False,
    kernel=FlowSDE(name="flow_sde", noise_level=0.7), window=Every(name="every"), guidance=1.0,
    advantage_scale="group", summed="rewards", advantage_clip=5.0, num_updates=2, steps_per_update=3, 
    ratio="plain", trust="ratio",
    clip_range=0.2, kept=All(name="all"), beta_kl=0.0, student_lr=1e-4,
)  # fmt: skip
PIXELS = Points((1, 4, 4), torch.float64)


def reward(samples: Tensor, _cond: Tensor) -> Tensor:
    return samples.flatten(1).mean(dim=1)


def group_batch(groups: int, size: int) -> dict[str, Tensor]:
    group = torch.arange(groups).repeat_interleave(size)
    return {"cond": group[:, None] % 5 + 1, "group": group}


def tiny(student: nn.Module | None = None) -> World:
    nets = {"student": student or TinyNet(0), "reference": TinyNet(1)}
    return World(nets=nets, space=PIXELS, reward=reward, parts=lambda x, cond: reward(x, cond)[:, None])


def prepared(world: World, cfg: flow_grpo.Config = CONFIG, groups: int = 3, size: int = 6) -> dict[str, Tensor]:
    return dict(flow_grpo.prepare(world, group_batch(groups, size), stream(0, "prepare"), cfg))


def rolled_gaussian(n: int) -> tuple[World, dict[str, Tensor], ShiftedVelocity]:
    """n trajectories of the exact N(1, .25) velocity, in one group."""
    student = ShiftedVelocity(GaussianVelocity(1.0, 0.5))
    nets = {"student": student, "reference": GaussianVelocity(1.0, 0.5)}
    world = World(nets=nets, space=Points((1, 1, 1), torch.float64), reward=reward)
    batch = {"cond": tokens(n), "group": torch.zeros(n, dtype=torch.int64)}
    return world, dict(flow_grpo.prepare(world, batch, stream(0, "prepare"), CONFIG)), student


def test_policy_gradient_is_the_known_number() -> None:
    # a shift of the velocity on the stochastic steps: (1 - 1/8) dJ/dshift = -.4173, groups of 8, no division by std
    world, given, student = rolled_gaussian(240_000)
    centred = given["reward"].reshape(-1, 8)
    given["advantage"] = (centred - centred.mean(dim=1, keepdim=True)).flatten()
    value, _ = flow_grpo.loss(world, given, stream(0, "loss"), CONFIG)
    (slope,) = torch.autograd.grad(value, student.shift)
    # the loss descends, and averages over the 3 steps of a path where the gradient of J sums
    assert -3 * slope.item() == pytest.approx(-0.4173, abs=0.012)


def test_roll_outs_have_the_samplers_known_moments() -> None:
    _, given, _ = rolled_gaussian(200_000)
    x1, x0 = given["states"][:, 0].flatten(), given["reward"]
    assert x0.mean().item() == pytest.approx(1, abs=5e-3)
    assert x0.var().item() == pytest.approx(0.2078, abs=3e-3)
    assert torch.corrcoef(torch.stack([x0, x1]))[0, 1].item() == pytest.approx(0.198, abs=8e-3)


KERNELS = [
    FlowSDE(name="flow_sde", noise_level=0.7),
    DanceSDE(name="dance_sde", noise_level=0.3),
    CPS(name="cps", noise_level=0.9),
]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_ratio_is_one_before_the_first_update(guidance: float, kernel: FlowSDE | DanceSDE | CPS) -> None:
    cfg, world = replace(CONFIG, guidance=guidance, kernel=kernel), tiny()
    _, metrics = flow_grpo.loss(world, prepared(world, cfg), stream(0, "loss"), cfg)
    assert float(metrics["ratio_gap"]) < 1e-12
    moved = tiny(TinyNet(5))
    _, metrics = flow_grpo.loss(moved, prepared(world, cfg), stream(0, "loss"), cfg)
    assert float(metrics["ratio_gap"]) > 1e-3


def test_the_first_gradient_is_reinforce_with_a_group_baseline() -> None:
    world = tiny()
    given, student = prepared(world), world.nets["student"]
    times = grid(even(4).times, given["states"])
    total = torch.zeros((), dtype=torch.float64)
    for k in range(3):
        step = flow_sde_step(times, torch.full((18,), k), 0.7)
        x = given["states"][:, k]
        mean = step.mean(x, student(x, times[k].expand(18), given["cond"]))
        log_prob = torch.distributions.Normal(mean, step.std.reshape(-1, 1, 1, 1)).log_prob(given["states"][:, k + 1])
        total = total - (given["advantage"] * log_prob.flatten(1).mean(dim=1)).mean() / 3
    value, _ = flow_grpo.loss(world, given, stream(0, "loss"), CONFIG)
    for p in student.parameters():
        (found,) = torch.autograd.grad(value, p, retain_graph=True)
        (expected,) = torch.autograd.grad(total, p, retain_graph=True)
        torch.testing.assert_close(found, expected)


def test_the_surrogate_is_the_pessimistic_one() -> None:
    # a gain counts up to the clip, a loss counts in full
    rolled, moved, clip = tiny(), tiny(), 0.003
    with torch.no_grad():
        for p in moved.nets["student"].parameters():
            p.add_(0.02)
    given, times, total, far = prepared(rolled), grid(even(4).times, torch.zeros(()).double()), 0.0, 0.0
    for k in range(3):
        step = flow_sde_step(times, torch.full((18,), k), 0.7)
        x, x_next = given["states"][:, k], given["states"][:, k + 1]
        logs = [
            step.log_prob(x_next, step.mean(x, w.nets["student"](x, times[k].expand(18), given["cond"])))
            for w in (moved, rolled)
        ]
        ratio, advantage = (logs[0] - logs[1]).exp(), given["advantage"]
        counted = torch.where(advantage > 0, ratio.clamp_max(1 + clip), ratio.clamp_min(1 - clip))
        total -= (advantage * counted).mean().item() / 3
        far += ((ratio - 1).abs() > clip).double().mean().item() / 3
    value, metrics = flow_grpo.loss(moved, given, stream(0, "loss"), replace(CONFIG, clip_range=clip))
    assert 0.1 < far < 0.9
    assert float(metrics["clipped"]) == pytest.approx(far)
    assert value.item() == pytest.approx(total)


def test_the_kl_term_is_the_exact_one() -> None:
    world = tiny()
    given = prepared(world)
    plain = flow_grpo.loss(world, given, stream(0, "loss"), CONFIG)[0]
    held, metrics = flow_grpo.loss(world, given, stream(0, "loss"), replace(CONFIG, beta_kl=0.3))
    times, total = grid(even(4).times, given["states"]), 0.0
    for k in range(3):
        step = flow_sde_step(times, torch.full((18,), k), 0.7)
        x, t = given["states"][:, k], times[k].expand(18)
        means = [step.mean(x, world.nets[role](x, t, given["cond"])) for role in ("student", "reference")]
        std = step.std.reshape(-1, 1, 1, 1)
        ours, theirs = (torch.distributions.Normal(mean, std) for mean in means)
        total += torch.distributions.kl_divergence(ours, theirs).mean().item() / 3
    assert float(metrics["kl"]) == pytest.approx(total)
    assert (held - plain).item() == pytest.approx(0.3 * total)


def test_no_gradient_flows_through_the_empty_prompt() -> None:
    cfg, world = replace(CONFIG, guidance=2.0), tiny()
    value, _ = flow_grpo.loss(world, prepared(world, cfg), stream(0, "loss"), cfg)
    (grad,) = torch.autograd.grad(value, world.nets["student"].words.weight)
    assert (grad[0] == 0).all()  # the word of the empty prompt alone
    assert grad[1:4].abs().sum() > 0


def test_steps_of_an_update_are_drawn_without_replacement() -> None:
    cfg, world = replace(CONFIG, rollout_steps=6, steps_per_update=5), tiny()
    given = prepared(world, cfg)
    assert given["states"].shape[:2] == (18, 6)
    assert given["log_prob"].shape == (18, 5)
    values = {flow_grpo.loss(world, given, stream(seed, "l"), replace(cfg, beta_kl=1.0))[0].item() for seed in range(4)}
    assert max(values) - min(values) < 1e-12  # all five steps, in whatever order


def test_equal_rewards_teach_nothing() -> None:
    world = World(nets=tiny().nets, space=PIXELS, reward=lambda x, _: torch.full((len(x),), 0.1, dtype=x.dtype))
    value, _ = flow_grpo.loss(world, prepared(world), stream(0, "loss"), CONFIG)
    assert all((g == 0).all() for g in torch.autograd.grad(value, list(world.nets["student"].parameters())))


def test_bad_configurations_and_rewards_are_refused() -> None:
    section = asdict(CONFIG)
    with pytest.raises(ValueError, match=r"steps_per_update=4 exceeds the 3 stochastic steps of rollout_steps=4"):
        check(flow_grpo.Config, {**section, "steps_per_update": 4}, "rl.arms.grpo")
    with pytest.raises(ValueError, match=r"kernel.noise_level=0.0: a roll-out without noise has no densities"):
        check(flow_grpo.Config, {**section, "kernel": {"name": "cps", "noise_level": 0.0}}, "rl.arms.grpo")
    broken = World(nets=tiny().nets, space=PIXELS, reward=lambda x, _: torch.full((len(x),), torch.nan))
    with pytest.raises(ValueError, match=r"flow_grpo: reward: 18 of 18 values are not finite; look at the samples"):
        prepared(broken)
