"""G2RPO on the Gaussian: what a branch varies by, its gradient, its grids, and the order of its updates."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from stages.core.rng import stream
from stages.core.types import World
from stages.models.space import Points
from stages.policies import g2rpo
from stages.samplers.flow_sde import FlowSDE
from stages.training.kept import All
from tests.policies.groups import batch, gradient, mean_pixel
from tests.training.gaussian import GaussianVelocity, ShiftedVelocity
from tests.training.tiny import TinyNet

CONFIG = g2rpo.Config(
    kept=All(name="all"),
    method="g2rpo", rollout_steps=8, nfe=4, shift=3.0, kernel=FlowSDE(name="flow_sde", noise_level=0.7), branched=0.5,
    granularities=1, guidance=1.0, advantage_scale="none", summed="rewards",
    advantage_clip=5.0, clip_range=0.2, student_lr=1e-4,
)  # fmt: skip


def rolled(
    cfg: g2rpo.Config, groups: int, size: int, student: nn.Module | None = None
) -> tuple[World, dict[str, Tensor]]:
    net, shape = student or ShiftedVelocity(GaussianVelocity(1.0, 0.5)), (1, 4, 4) if student else (1, 1, 1)
    world = World(nets={"student": net}, space=Points(shape, torch.float64), reward=mean_pixel)
    return world, dict(g2rpo.prepare(world, batch(groups, size), stream(0, "prepare"), cfg))


def test_each_branch_varies_by_its_own_noise_and_learns_its_own_gradient() -> None:
    # for a fixed x_k Var(x0 | x_k) = P_k^2 C_k^2, and a shift of the velocity is worth (1 - 1/G) P_k c_k
    world, given = rolled(replace(CONFIG, advantage_clip=1e9), 600, 200)
    nodes = g2rpo.times_of(CONFIG)
    gains = [1 - (t - s) * (t - (1 - t) / 4) / ((1 - t) ** 2 / 4 + t**2) for t, s in pairwise(nodes)]
    for phase, k in zip(g2rpo.phases(CONFIG), range(4), strict=True):
        step = CONFIG.kernel.transition(torch.tensor(nodes, dtype=torch.float64), torch.tensor([k]))
        onward = math.prod(gains[k + 1 :])
        within = given["advantage"][:, k].reshape(600, 200).var(dim=1, correction=1).mean().item()
        assert within == pytest.approx((onward * step.std.item()) ** 2, rel=0.02)
        value, metrics = phase.loss(world, given, stream(0, "loss"), CONFIG)
        (slope,) = torch.autograd.grad(value, world.nets["student"].shift)
        assert -slope.item() == pytest.approx(onward * step.v_weight.item() * 199 / 200, rel=0.02)
        assert float(metrics["ratio_gap"]) < 1e-12


def test_parents_are_the_odes_and_shared_by_a_group() -> None:
    student = TinyNet(0)
    world, given = rolled(CONFIG, 3, 5, student)
    cond, nodes = batch(3, 5)["cond"][::5], g2rpo.times_of(CONFIG)
    x = given["parents"][:, 0]
    for k in range(3):
        v = student(x, torch.full((3,), nodes[k], dtype=x.dtype), cond)
        x = x - (nodes[k] - nodes[k + 1]) * v
        torch.testing.assert_close(given["parents"][:, k + 1], x)
    assert given["x_next"].shape == (15, 4, 1, 4, 4)
    assert len(given["x_next"].flatten(1).unique(dim=0)) == 15
    assert world.nets["student"] is student


def test_grids_of_every_granularity_end_at_data() -> None:
    nodes = tuple(1 - i / 16 for i in range(17))
    for k in range(15):
        assert g2rpo.onward(nodes, k, 1) == nodes[k + 1 :]
        for granularity in (2, 3, 7):
            times = g2rpo.onward(nodes, k, granularity)
            assert times[:2] == nodes[k + 1 : k + 3]
            assert times[-1] == 0
            assert set(times) <= set(nodes)
            assert len(times) - 1 == 1 + math.ceil((14 - k) / granularity)
    assert sum(len(g2rpo.onward(nodes, k, q)) - 1 for k in range(8) for q in (1, 2)) * 12 + 16 == 1744


def test_granularities_that_agree_add_up() -> None:
    # with three steps and a branch at the second, both are the one step to data
    cfg = replace(CONFIG, rollout_steps=3, branched=1.0)
    once, twice = (rolled(replace(cfg, granularities=q), 3, 6, TinyNet(0))[1] for q in (1, 2))
    torch.testing.assert_close(twice["advantage"], 2 * once["advantage"])
    torch.testing.assert_close(twice["reward"], once["reward"])
    other = rolled(replace(CONFIG, granularities=2), 3, 6, TinyNet(0))[1]
    assert not torch.allclose(other["advantage"], 2 * rolled(CONFIG, 3, 6, TinyNet(0))[1]["advantage"], rtol=1e-3)


def test_the_surrogate_is_that_of_each_branch() -> None:
    cfg = replace(CONFIG, clip_range=1e-3, advantage_scale="group_unbiased")
    _, given = rolled(cfg, 3, 6, TinyNet(0))
    student = TinyNet(0)
    with torch.no_grad():
        for p in student.parameters():
            p.add_(0.05)
    world = World(nets={"student": student}, space=Points((1, 4, 4), torch.float64), reward=mean_pixel)
    times = torch.tensor(g2rpo.times_of(cfg), dtype=torch.float64)
    for k in range(4):
        step = cfg.kernel.transition(times, torch.full((18,), k))
        x, cond = given["parents"][:, k].repeat_interleave(6, dim=0), given["cond"]
        log_prob = step.log_prob(given["x_next"][:, k], step.mean(x, student(x, times[k].expand(18), cond)))
        ratio, advantage = (log_prob - given["log_prob"][:, k]).exp(), given["advantage"][:, k]
        counted = torch.where(advantage > 0, ratio.clamp_max(1.001), ratio.clamp_min(0.999))
        value, _ = g2rpo.loss(world, given, stream(0, "loss"), cfg, k=k)
        assert value.item() == pytest.approx(-(advantage * counted).mean().item())
        torch.testing.assert_close(gradient(value, student), gradient(-(advantage * counted).mean(), student))


def test_updates_are_one_a_branch_in_order() -> None:
    assert [phase.name for phase in g2rpo.phases(CONFIG)] == ["step0", "step1", "step2", "step3"]
    assert list(g2rpo.branches(replace(CONFIG, branched=1.0))) == list(range(7))
    assert list(g2rpo.branches(replace(CONFIG, branched=0.01))) == [0]
    with pytest.raises(ValueError, match=r"kernel.noise_level=0.0: a step without noise has no density; raise it"):
        replace(CONFIG, kernel=FlowSDE(name="flow_sde", noise_level=0.0))
