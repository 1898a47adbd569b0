"""DiffusionNFT: its first gradient, its exact minimiser on a Gaussian, and what its clip and its weights do."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from stages.core.config import check
from stages.core.path import mix
from stages.core.rng import stream
from stages.core.types import World
from stages.policies import nft
from stages.training.kept import All
from tests.policies import conditional
from tests.policies.conditional import asked, constant, gaussian_nodes, posterior
from tests.policies.groups import gradient, level, prepared, slope_of, tiny

CONFIG = nft.Config(
    kept=All(name="all"),
    method="nft", rollout_steps=4, nfe=8, advantage_scale="group", summed="rewards",
    advantage_clip=5.0, num_draws=4, levels="any",
    t_min=0.1, t_max=1.0, beta=0.7, weighs="uniform", beta_kl=0.0, old_decay=0.5, old_decay_rate=1e-3, student_lr=1e-4,
)  # fmt: skip
MEAN, VARIANCE, TILT = 1.0, 0.25, 0.05


def errors(world: World, given: dict[str, Tensor]) -> Tensor:
    t, eps = nft.draw(given, stream(0, "loss"), CONFIG)
    v = world.nets["student"](mix(given["x0"], eps, t), t, given["cond"])
    return (v - (eps - given["x0"])).square().flatten(1).mean(dim=1)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_at_the_old_policy_the_gradient_is_advantage_weighted_matching(beta: float) -> None:
    world = level(nft, CONFIG)
    given = prepared(nft, world, CONFIG)
    expected = gradient((given["advantage"] * errors(world, given)).mean(), world.nets["student"])
    torch.testing.assert_close(slope_of(nft, world, given, replace(CONFIG, beta=beta)), expected)


def rows(nodes: Tensor, good: Tensor) -> dict[str, Tensor]:
    return {**conditional.rows(nodes, good), "good": good}


def at_gaussian(x: float, t: float, student: float, old: float, good: Tensor) -> float:
    nodes, p = gaussian_nodes(MEAN, VARIANCE**0.5)
    eps, weights = posterior(x, t, nodes, p)
    answers = {"student": constant(student), "old": constant(old), "reference": constant(0.0)}
    return asked(nft, CONFIG, rows(nodes, good), weights, (eps, t), answers)


def denoised(x: float, t: float, mean: float) -> float:
    """E[x0 | x_t = x] of N(mean, VARIANCE)."""
    return mean + (1 - t) * VARIANCE / ((1 - t) ** 2 * VARIANCE + t**2) * (x - (1 - t) * mean)


@pytest.mark.parametrize("t", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("x", [-0.8, 0.4])
def test_one_solved_iteration_maps_a_gaussian_to_its_tilt(x: float, t: float) -> None:
    """r = 1/2 + k (x0 - m): N(m, s2) becomes N(m + 2 k s2 / b, s2), exactly, at every level."""
    nodes, _ = gaussian_nodes(MEAN, VARIANCE**0.5)
    good = 0.5 + TILT * (nodes - MEAN)
    old, tilted = (denoised(x, t, m) for m in (MEAN, MEAN + 2 * TILT * VARIANCE / CONFIG.beta))
    assert at_gaussian(x, t, tilted, old, good) == pytest.approx(0, abs=1e-9)
    assert at_gaussian(x, t, old, old, good) > 1e-3  # from where it starts it moves there
    assert at_gaussian(x, t, 2 * tilted - old, old, good) < -1e-3


@pytest.mark.parametrize("old", [0.3, 2.0])
def test_without_a_preference_it_stays_at_the_old_policy_even_where_that_is_no_mean(old: float) -> None:
    nodes, _ = gaussian_nodes(MEAN, VARIANCE**0.5)
    half = torch.full_like(nodes, 0.5)
    assert at_gaussian(0.2, 0.5, old, old, half) == pytest.approx(0, abs=1e-12)
    assert at_gaussian(0.2, 0.5, old + 0.1, old, half) < -1e-3  # and is held there from both sides
    assert at_gaussian(0.2, 0.5, old - 0.1, old, half) > 1e-3


def test_the_minimiser_of_a_student_that_is_no_mean_has_the_blur_term() -> None:
    """v - v_old = (2 / b) (Cov(r, v | x) + (E[r | x] - 1/2) (E[v | x] - v_old)), in data estimates."""
    x, t, old = 0.2, 0.5, 1.6
    nodes, p = gaussian_nodes(MEAN, VARIANCE**0.5)
    good = 0.8 - 0.3 * (nodes > 1).double()
    _, weights = posterior(x, t, nodes, p)
    mean, mean_good = (weights * nodes).sum(), (weights * good).sum()
    covariance = (weights * (good - mean_good) * (nodes - mean)).sum()
    solved = old + 2 / CONFIG.beta * float(covariance + (mean_good - 0.5) * (mean - old))
    assert at_gaussian(x, t, solved, old, good) == pytest.approx(0, abs=1e-12)


def test_goodness_is_cut_at_the_ends() -> None:
    found = nft.goodness(torch.tensor([-9.0, -5.0, 0.0, 2.5, 5.0, 9.0]), 5.0)
    assert found.tolist() == pytest.approx([0, 0, 0.5, 0.75, 1, 1])


def test_the_adaptive_weight_is_the_mean_absolute_error_of_the_data_estimate_without_gradient() -> None:
    cfg = replace(CONFIG, weighs="adaptive")
    v = torch.randn(5, 1, 4, 4, dtype=torch.float64, generator=stream(0, "v"), requires_grad=True)
    target = torch.randn(5, 1, 4, 4, dtype=torch.float64, generator=stream(1, "v"))
    t = torch.linspace(0.1, 1, 5, dtype=torch.float64)
    gap = t.reshape(-1, 1, 1, 1) * (v - target)  # of x_t - t v against x0
    scale = gap.detach().abs().flatten(1).mean(dim=1)
    expected = gap.square().flatten(1).mean(dim=1) / scale
    found = nft.errors(v, target, t, cfg)
    torch.testing.assert_close(found, expected)
    one, other = (torch.autograd.grad(e.sum(), v, retain_graph=True)[0] for e in (found, expected))
    torch.testing.assert_close(one, other)


def test_the_kl_term_is_the_squared_velocity_gap() -> None:
    world = tiny(nft, CONFIG)
    given = prepared(nft, world, CONFIG)
    t, eps = nft.draw(given, stream(0, "loss"), CONFIG)
    x_t = mix(given["x0"], eps, t)
    gap = world.nets["student"](x_t, t, given["cond"]) - world.nets["reference"](x_t, t, given["cond"])
    held, free = (
        nft.loss(world, given, stream(0, "loss"), replace(CONFIG, beta_kl=weight))[0] for weight in (0.3, 0.0)
    )
    torch.testing.assert_close(held - free, 0.3 * gap.square().mean())


def test_samples_are_the_old_policys() -> None:
    world = tiny(nft, CONFIG)
    same = prepared(nft, tiny(nft, CONFIG, student=world.nets["old"]), CONFIG)["x0"]
    assert torch.equal(prepared(nft, world, CONFIG)["x0"], same)
    other = prepared(nft, tiny(nft, CONFIG, old=world.nets["student"]), CONFIG)["x0"]
    assert not torch.equal(prepared(nft, world, CONFIG)["x0"], other)


def test_equal_rewards_teach_nothing_at_the_old_policy() -> None:
    world = replace(level(nft, CONFIG), reward=lambda x, _: torch.full((len(x),), 0.3, dtype=x.dtype))
    assert slope_of(nft, world, prepared(nft, world, CONFIG), CONFIG).abs().max() < 1e-15


def test_the_old_policy_moves_at_the_end_of_an_iteration() -> None:
    decay = nft.roles(CONFIG)["old"].decay
    assert [decay(update) for update in range(1, 9)] == [1, 1, 1, 0.001, 1, 1, 1, 0.002]
    assert decay(4 * 500) == decay(4 * 9000) == 0.5


def test_levels_of_the_roll_outs_steps_are_its_own_times() -> None:
    cfg = replace(CONFIG, levels="steps", t_min=0.3)
    t, _ = nft.draw({"x0": torch.zeros(400, 1, 1, 1)}, stream(0, "t"), cfg)
    assert sorted(set(t.tolist())) == [0.5, 0.75, 1.0]
    section = {**asdict(CONFIG), "levels": "steps", "t_min": 0.8, "t_max": 0.9}
    with pytest.raises(ValueError, match=r"none of 4 equal steps begins in \[t_min, t_max\] = \[0.8, 0.9\]"):
        check(nft.Config, section, "rl.arms.nft")
    with pytest.raises(ValueError, match=r"t_min=0.9 must be less than t_max=0.2"):
        check(nft.Config, {**asdict(CONFIG), "t_min": 0.9, "t_max": 0.2}, "rl.arms.nft")


def test_a_reward_without_a_verdict_is_refused() -> None:
    broken = replace(level(nft, CONFIG), reward=lambda x, _: torch.full((len(x),), torch.nan))
    with pytest.raises(ValueError, match=r"nft: reward: 24 of 24 values are not finite; look at the samples"):
        prepared(nft, broken, CONFIG)
