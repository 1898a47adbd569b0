"""Pairwise sample optimisation on a perfect student of two calls, whose numbers are known."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.config import check
from stages.core.path import expand
from stages.core.rng import stream
from stages.core.spec import even
from stages.core.types import World
from stages.models.space import Points
from stages.policies import pso
from stages.samplers.anchored import Anchored
from stages.samplers.cps import CPS
from stages.samplers.kernels import grid_like
from tests.policies.groups import gradient, level, mean_pixel, prepared, slope_of, tiny
from tests.training.gaussian import tokens

CONFIG = pso.Config(
    method="pso", nfe=3, kernel=Anchored(name="anchored", depth=1.0), num_updates=1, beta=2.0, clip_range=0.5,
    student_lr=1e-4,
)  # fmt: skip
KERNELS = [CONFIG.kernel, Anchored(name="anchored", depth=0.4), CPS(name="cps", noise_level=0.9)]


class FlowMap(nn.Module):
    """A perfect student for data N(1, .25), with a learnable shift of what it answers to pure noise."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, _cond: Tensor) -> Tensor:
        first, t = expand(t == 1, x), expand(t, x)
        scale = (0.25 / ((1 - t) ** 2 * 0.25 + t**2)).sqrt()
        return (x - 1 - scale * (x - (1 - t)) - first * self.bias) / t


def rolled(pairs: int) -> tuple[World, dict[str, Tensor], FlowMap]:
    student = FlowMap()
    world = World(nets={"student": student, "reference": FlowMap()}, space=Points((1, 1, 1), torch.float64))
    batch = {"cond": tokens(2 * pairs), "group": torch.arange(pairs).repeat_interleave(2)}
    world = replace(world, reward=mean_pixel)
    return world, dict(pso.prepare(world, batch, stream(0, "prepare"), replace(CONFIG, nfe=2))), student


def test_the_gradient_of_a_perfect_two_call_student_is_the_known_number() -> None:
    """x0 = 1 + .2236 x1 + .4472 z: E[z_w - z_l] = .8944 / sqrt(.5) sqrt(2 / pi) = 1.00925; d log pi / d bias = z."""
    world, given, student = rolled(150_000)
    assert given["reward"].mean().item() == pytest.approx(1, abs=5e-3)
    assert given["reward"].var().item() == pytest.approx(0.25, abs=3e-3)
    value, _ = pso.loss(world, given, stream(0, "loss"), replace(CONFIG, nfe=2))
    assert value.item() == pytest.approx(math.log(2))
    (slope,) = torch.autograd.grad(value, student.bias)
    assert slope.item() == pytest.approx(-CONFIG.beta / 2 * 1.00925, abs=0.012)


def densities(world: World, given: dict[str, Tensor], cfg: pso.Config, role: str, key: str) -> Tensor:
    """log pi of every step with noise [G, K - 1], by torch's own normal law, a mean over elements."""
    times, found = grid_like(even(cfg.nfe).times, given[key]), []
    for k in range(cfg.nfe - 1):
        step = cfg.kernel.transition(times, torch.full((len(given[key]),), k))
        x = given[key][:, k]
        v = world.nets[role](x, times[k].expand(len(x)), given["pair_cond"])
        law = torch.distributions.Normal(step.mean(x, v), step.std.reshape(-1, 1, 1, 1))
        found.append(law.log_prob(given[key][:, k + 1]).flatten(1).mean(dim=1))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_the_loss_is_dpos_on_every_step_that_has_noise(kernel: Anchored | CPS) -> None:
    cfg = replace(CONFIG, kernel=kernel, clip_range=0.05)
    world = tiny(pso, cfg)
    given = prepared(pso, world, cfg)
    ratios = [
        (densities(world, given, cfg, "student", key) - densities(world, given, cfg, "reference", key)).exp()
        for key in ("better", "worse")
    ]
    won, lost = (ratio.clamp(0.95, 1.05).log() for ratio in ratios)
    expected = -nn.functional.logsigmoid(cfg.beta * (won - lost)).mean()
    value, metrics = pso.loss(world, given, stream(0, "loss"), cfg)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient(value, world.nets["student"]), gradient(expected, world.nets["student"]))
    assert 0 < float(metrics["clipped"]) < 1
    assert float(metrics["kl"]) > 0
    same = level(pso, cfg)
    assert float(pso.loss(same, prepared(pso, same, cfg), stream(0, "loss"), cfg)[1]["kl"]) == 0


def test_the_log_ratio_is_noise_times_the_step_less_half_its_square() -> None:
    """Renoising: mean z d / t' - mean d^2 / (2 t'^2), d = (1 - t') (G - G_ref)."""
    world = tiny(pso, CONFIG)
    given = prepared(pso, world, CONFIG)
    rolled_by = densities(world, given, CONFIG, "student", "better") - densities(
        world, given, CONFIG, "reference", "better"
    )
    x, cond, t_next = given["better"], given["pair_cond"], 2 / 3
    t = torch.ones(len(x), dtype=torch.float64)
    ours, theirs = (x[:, 0] - world.nets[role](x[:, 0], t, cond) for role in ("student", "reference"))
    away = (1 - t_next) * (ours - theirs)
    z = (x[:, 1] - (1 - t_next) * ours) / t_next
    expected = ((z * away) / t_next + away.square() / (2 * t_next**2)).flatten(1).mean(dim=1)
    torch.testing.assert_close(rolled_by[:, 0], expected)  # z is of the student here: the sign of the square turns


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_at_the_reference_it_is_ln_2_and_pulls_towards_the_better_steps(kernel: Anchored | CPS) -> None:
    cfg = replace(CONFIG, kernel=kernel)
    world = level(pso, cfg)
    given = prepared(pso, world, cfg)
    assert pso.loss(world, given, stream(0, "loss"), cfg)[0].item() == pytest.approx(math.log(2))
    won, lost = (densities(world, given, cfg, "student", key).mean() for key in ("better", "worse"))
    expected = -cfg.beta / 2 * gradient(won - lost, world.nets["student"])
    torch.testing.assert_close(slope_of(pso, world, given, cfg), expected)


def test_states_are_those_of_steps_with_noise_alone() -> None:
    given = prepared(pso, tiny(pso, CONFIG), CONFIG)
    assert given["better"].shape == given["worse"].shape == (3, 3, 1, 4, 4)
    student = tiny(pso, CONFIG).nets["student"]
    last = given["better"][:, -1]
    t = torch.full((3,), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(
        mean_pixel(last - t.reshape(-1, 1, 1, 1) * student(last, t, given["pair_cond"]), t),
        given["reward"].reshape(3, 8).amax(dim=1),
    )


def test_equal_rewards_teach_nothing() -> None:
    world = replace(tiny(pso, CONFIG), reward=lambda x, _: torch.full((len(x),), 0.1, dtype=x.dtype))
    assert slope_of(pso, world, prepared(pso, world, CONFIG), CONFIG).abs().max() == 0


def test_steps_without_noise_are_refused() -> None:
    section = asdict(CONFIG)
    with pytest.raises(ValueError, match=r"nfe: .*greater than or equal to 2"):
        check(pso.Config, {**section, "nfe": 1}, "rl.arms.pso")
    with pytest.raises(ValueError, match=r"kernel.depth=0.0: a step without noise has no density; raise it"):
        check(pso.Config, {**section, "kernel": {"name": "anchored", "depth": 0.0}}, "rl.arms.pso")
    with pytest.raises(ValueError, match=r"kernel.noise_level=0.0: a step without noise has no density"):
        check(pso.Config, {**section, "kernel": {"name": "cps", "noise_level": 0.0}}, "rl.arms.pso")


def test_the_student_is_sampled_by_its_kernel() -> None:
    assert pso.sampler(CONFIG).rule == {"name": "anchored", "depth": 1.0}
