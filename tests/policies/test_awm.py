"""Advantage-weighted matching: its first gradient, its fixed point on a Gaussian, and where it has none."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from stages.core.config import check
from stages.core.path import mix
from stages.core.rng import stream
from stages.core.types import World
from stages.policies import awm
from stages.training.kept import All
from tests.policies.conditional import asked, constant, gaussian_nodes, posterior, rows
from tests.policies.groups import gradient, level, prepared, slope_of, tiny

CONFIG = awm.Config(
    kept=All(name="all"),
    method="awm", rollout_steps=4, nfe=8, advantage_scale="group", summed="rewards",
    learns_from="all", num_draws=3, levels="any",
    t_min=0.1, t_max=1.0, weighs="uniform", power=1.0, clip_range=1e9, beta_kl=0.0, beta_ema=0.0, ema_decay=0.3,
    ema_decay_rate=1e-3, student_lr=1e-4,
)  # fmt: skip
MEAN, VARIANCE = 1.0, 0.25


def errors(world: World, given: dict[str, Tensor], role: str = "student") -> tuple[Tensor, Tensor]:
    """t [B] and |v - (eps - x0)|^2 [B] at the levels and noises that the loss draws."""
    t, eps = awm.draw(given, stream(0, "loss"), CONFIG)
    v = world.nets[role](mix(given["x0"], eps, t), t, given["cond"])
    return t, (v - (eps - given["x0"])).square().flatten(1).mean(dim=1)


@pytest.mark.parametrize(("weighs", "power"), [("uniform", 1.0), ("t", 1.0), ("t2", 1.0), ("t", 0.25)])
def test_at_the_old_policy_the_gradient_is_the_advantage_weighted_error(weighs: str, power: float) -> None:
    world = level(awm, CONFIG)
    given = prepared(awm, world, CONFIG)
    t, error = errors(world, given)
    weight = {"uniform": 1, "t": t, "t2": t**2}[weighs] * error.detach() ** (power - 1)
    expected = gradient((given["advantage"] * weight * error).mean(), world.nets["student"])
    found = slope_of(awm, world, given, replace(CONFIG, weighs=weighs, power=power))
    torch.testing.assert_close(found, expected)


def test_the_surrogate_is_the_pessimistic_one() -> None:
    world, clip = tiny(awm, CONFIG), 0.05
    given = prepared(awm, world, CONFIG)
    ratio = (errors(world, given, "old")[1] - errors(world, given)[1]).exp()
    advantage = given["advantage"]
    counted = torch.where(advantage > 0, ratio.clamp_max(1 + clip), ratio.clamp_min(1 - clip))
    value, metrics = awm.loss(world, given, stream(0, "loss"), replace(CONFIG, clip_range=clip))
    torch.testing.assert_close(value, -(advantage * counted).mean())
    assert float(metrics["clipped"]) == pytest.approx(((ratio - 1).abs() > clip).double().mean().item())
    assert 0.1 < float(metrics["clipped"]) <= 1


def test_winners_alone_are_fitted_and_losers_have_no_word() -> None:
    """On the Gaussian with A = x0 - mean a student that answers the winners' mean stays, whatever losers are."""
    nodes, p = gaussian_nodes(MEAN, VARIANCE**0.5)
    eps, weights = posterior(0.4, 1.0, nodes, p)
    won = weights * (nodes - MEAN).clamp_min(0)
    best = float((won * nodes).sum() / won.sum())
    assert best > MEAN + 0.5
    answers = {role: constant(best) for role in ("student", "old", "ema", "reference")}
    asks = [
        asked(awm, replace(CONFIG, learns_from=some), rows(nodes, nodes - MEAN), weights, (eps, 1.0), answers)
        for some in ("winners", "all")
    ]
    assert asks[0] == pytest.approx(0, abs=1e-9)
    assert asks[1] == pytest.approx(VARIANCE, rel=1e-3), "with the contrast it is Cov(A, x0), wherever it stands"


@pytest.mark.parametrize(("knob", "role"), [("beta_kl", "reference"), ("beta_ema", "ema")])
def test_each_pull_is_a_squared_velocity_gap(knob: str, role: str) -> None:
    world = tiny(awm, CONFIG)
    given = prepared(awm, world, CONFIG)
    t, eps = awm.draw(given, stream(0, "loss"), CONFIG)
    x_t = mix(given["x0"], eps, t)
    gap = world.nets["student"](x_t, t, given["cond"]) - world.nets[role](x_t, t, given["cond"])
    held, free = (awm.loss(world, given, stream(0, "loss"), replace(CONFIG, **{knob: w}))[0] for w in (0.3, 0.0))
    torch.testing.assert_close(held - free, 0.3 * gap.square().mean())


def at_gaussian(x: float, t: float, data: float, slope: float, cfg: awm.Config = CONFIG, shift: float = 0.0) -> float:
    """With A = slope (x0 - mean) + shift, of a student that answers `data`, with pulls to the truth."""
    nodes, p = gaussian_nodes(MEAN, VARIANCE**0.5)
    eps, weights = posterior(x, t, nodes, p)
    truth = constant(float((weights * nodes).sum()))
    answers = {"student": constant(data), "old": constant(data), "ema": truth, "reference": truth}
    return asked(awm, cfg, rows(nodes, slope * (nodes - MEAN) + shift), weights, (eps, t), answers)


@pytest.mark.parametrize(("x", "t"), [(-0.8, 0.5), (0.4, 0.5), (0.4, 1.0), (0.9, 0.2)])
def test_the_fixed_point_on_a_gaussian(x: float, t: float) -> None:
    """v - v_ref = Cov(A, v | x) / (E[A | x] + b), b the pulls together; of data the covariance is k s2 t^2 / V."""
    cfg, slope = replace(CONFIG, beta_kl=0.5, beta_ema=0.2), 0.3
    nodes, p = gaussian_nodes(MEAN, VARIANCE**0.5)
    truth = float((posterior(x, t, nodes, p)[1] * nodes).sum())
    covariance = slope * VARIANCE * t**2 / ((1 - t) ** 2 * VARIANCE + t**2)
    solved = truth + covariance / (slope * (truth - MEAN) + 0.7)
    assert at_gaussian(x, t, solved, slope, cfg) == pytest.approx(0, abs=1e-9)
    assert at_gaussian(x, t, truth, slope, cfg) == pytest.approx(covariance, abs=1e-9)  # the way there, from the start


def test_below_minus_its_pulls_it_runs_away_and_with_enough_of_them_it_does_not() -> None:
    """E[A | x] = -.6: what moved away from the mean of its samples is pushed on, unless the pulls sum to more."""
    weak, strong = (replace(CONFIG, beta_kl=0.3, beta_ema=weight) for weight in (0.2, 0.4))
    nodes, p = gaussian_nodes(MEAN, VARIANCE**0.5)
    truth = float((posterior(0.2, 0.5, nodes, p)[1] * nodes).sum())
    for away in (0.5, 5.0):
        assert at_gaussian(0.2, 0.5, truth + away, 0.0, weak, shift=-0.6) == pytest.approx(0.1 * away)
        assert at_gaussian(0.2, 0.5, truth + away, 0.0, strong, shift=-0.6) == pytest.approx(-0.1 * away)


def test_the_clip_stops_what_moved_far_enough_and_only_that() -> None:
    nodes, p = gaussian_nodes(MEAN, VARIANCE**0.5)
    eps, weights = posterior(0.2, 0.5, nodes, p)
    answers = {"student": constant(0.6), "old": constant(0.9), "ema": constant(0.0), "reference": constant(0.0)}
    given, found = rows(nodes, nodes - MEAN), []
    ratio = (((nodes - 0.9) ** 2 - (nodes - 0.6) ** 2) / 0.25).exp()
    for clip in (0.1, 1e9):
        counts = torch.where(given["advantage"] > 0, ratio <= 1 + clip, ratio >= 1 - clip)
        expected = (weights * counts * ratio * given["advantage"] * (nodes - 0.6)).sum()
        found.append(asked(awm, replace(CONFIG, clip_range=clip), given, weights, (eps, 0.5), answers))
        assert found[-1] == pytest.approx(float(expected), abs=1e-12)
    assert abs(found[0] - found[1]) > 1e-3


def test_old_is_the_policy_of_the_roll_out_and_ema_follows_every_update() -> None:
    roles = awm.roles(CONFIG)
    assert [roles["old"].decay(update) for update in range(1, 7)] == [1, 1, 0, 1, 1, 0]
    assert [roles["ema"].decay(update) for update in (1, 100, 300, 1000)] == pytest.approx([0.001, 0.1, 0.3, 0.3])


def test_a_power_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"power: .*greater than 0"):
        check(awm.Config, {**asdict(CONFIG), "power": 0.0}, "rl.arms.awm")
