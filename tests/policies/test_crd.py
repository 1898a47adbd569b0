"""Centred reward distillation: where it starts, where it stops, and that its weights sum to zero on the way."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.core.guidance import guided
from stages.core.path import mix
from stages.core.rng import stream
from stages.core.types import World
from stages.policies import crd
from stages.training.kept import All
from tests.policies.groups import gradient, level, prepared, slope_of, tiny

CONFIG = crd.Config(
    kept=All(name="all"),
    method="crd", rollout_steps=4, nfe=8, advantage_scale="group", summed="rewards",
    num_draws=4, levels="any", t_min=0.1, t_max=1.0,
    beta=3.0, sharpness=0.0, beta_kl=0.0, reference_guidance=1.0, old_decay=0.5, old_decay_rate=1e-3, student_lr=1e-4,
)  # fmt: skip


def errors(world: World, given: dict[str, Tensor], role: str = "student") -> Tensor:
    t, eps = crd.draw(given, stream(0, "loss"), CONFIG)
    v = world.nets[role](mix(given["x0"], eps, t), t, given["cond"])
    return (v - (eps - given["x0"])).square().flatten(1).mean(dim=1)


@pytest.mark.parametrize("beta", [0.1, 30.0])
def test_at_the_old_policy_the_gradient_is_the_advantage_weighted_error(beta: float) -> None:
    world = level(crd, CONFIG)
    given = prepared(crd, world, CONFIG)
    expected = gradient((given["advantage"] * errors(world, given)).mean(), world.nets["student"])
    torch.testing.assert_close(slope_of(crd, world, given, replace(CONFIG, beta=beta)), expected)


def test_away_from_it_the_weights_are_what_is_left_to_gain_and_sum_to_zero() -> None:
    world = tiny(crd, CONFIG)
    given = prepared(crd, world, CONFIG)
    error = errors(world, given)
    gain = (errors(world, given, "old") - error).detach().reshape(3, 8)
    weight = given["advantage"].reshape(3, 8) - CONFIG.beta * (gain - gain.mean(dim=1, keepdim=True))
    torch.testing.assert_close(weight.sum(dim=1), torch.zeros(3).double())
    expected = gradient((weight.flatten() * error).mean(), world.nets["student"])
    torch.testing.assert_close(slope_of(crd, world, given, CONFIG), expected)


def groups(seed: int) -> Tensor:
    return torch.randn(2, 5, dtype=torch.float64, generator=stream(seed, "groups"))


@pytest.mark.parametrize("sharpness", [0.0, 1.5])
def test_it_stops_where_gains_are_the_advantages_up_to_a_constant_of_the_group(sharpness: float) -> None:
    cfg, advantage = replace(CONFIG, sharpness=sharpness), groups(0)
    fitted = (advantage / cfg.beta + torch.tensor([[4.0], [-1.0]])).requires_grad_(True)
    value = crd.misfit(fitted, advantage, cfg)
    assert value.abs().max() < 1e-24
    assert torch.autograd.grad(value.sum(), fitted)[0].abs().max() < 1e-12
    assert crd.misfit(fitted * 1.1, advantage, cfg).min() > 0


def test_a_sharp_centre_is_the_groups_best_or_worst() -> None:
    gain, advantage, cfg = groups(0), groups(1), replace(CONFIG, sharpness=1e4)
    rows = torch.arange(2)
    expected = torch.zeros_like(gain)
    for place in (advantage.argmax(dim=1), advantage.argmin(dim=1)):
        gap = cfg.beta * (gain - gain[rows, place][:, None]) - (advantage - advantage[rows, place][:, None])
        expected += gap.square() / (2 * cfg.beta) / 2
    torch.testing.assert_close(crd.misfit(gain, advantage, cfg), expected)
    torch.testing.assert_close(
        crd.misfit(gain, advantage, replace(cfg, sharpness=1e-12)), crd.misfit(gain, advantage, CONFIG)
    )


def test_no_gradient_flows_through_the_centre() -> None:
    gain, advantage = groups(0).requires_grad_(True), groups(1)
    (slope,) = torch.autograd.grad(crd.misfit(gain, advantage, replace(CONFIG, sharpness=2.0))[:, 0].sum(), gain)
    assert (slope[:, 1:] == 0).all()
    assert (slope[:, 0] != 0).all()


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_kl_term_is_the_squared_gap_to_the_guided_reference(scale: float) -> None:
    world, cfg = tiny(crd, CONFIG), replace(CONFIG, reference_guidance=scale)
    given = prepared(crd, world, cfg)
    t, eps = crd.draw(given, stream(0, "loss"), cfg)
    x_t, cond = mix(given["x0"], eps, t), given["cond"]
    gap = world.nets["student"](x_t, t, cond) - guided(world.nets["reference"], scale)(x_t, t, cond)
    held, free = (crd.loss(world, given, stream(0, "loss"), replace(cfg, beta_kl=w))[0] for w in (0.3, 0.0))
    torch.testing.assert_close(held - free, 0.3 * gap.square().mean())


def test_a_group_shares_its_time_and_noise() -> None:
    given = prepared(crd, level(crd, CONFIG), CONFIG)
    t, eps = crd.draw(given, stream(0, "loss"), CONFIG)
    assert (t.reshape(3, 8) == t.reshape(3, 8)[:, :1]).all()
    assert (eps.reshape(3, 8, 16) == eps.reshape(3, 8, 16)[:, :1]).all()


def test_equal_rewards_teach_nothing_at_the_old_policy() -> None:
    world = replace(level(crd, CONFIG), reward=lambda x, _: torch.full((len(x),), 0.3, dtype=x.dtype))
    assert slope_of(crd, world, prepared(crd, world, CONFIG), CONFIG).abs().max() == 0


def test_the_old_policy_moves_at_the_end_of_an_iteration() -> None:
    decay = crd.roles(CONFIG)["old"].decay
    assert [decay(update) for update in range(1, 9)] == [1, 1, 1, 0.001, 1, 1, 1, 0.002]
