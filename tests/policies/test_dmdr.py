"""DMDR: DMD2's loss where it has no reward, its gradient beside a reward's, and what it begins and ends with."""

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor

from stages.core.config import check
from stages.core.rng import fork, stream
from stages.core.types import World
from stages.distillers import dmd2
from stages.models.space import Points
from stages.policies import dmdr
from stages.training.critics import simulated
from tests.policies.groups import batch, gradient, mean_pixel, tiny
from tests.training.gaussian import AffineStudent, GaussianVelocity, slopes, tokens
from tests.training.test_method_contract import section

CONFIG = dmdr.Config(
    method="dmdr", nfe=2, guidance=2.0, fake_updates=2, reward_weight=0.0, reward_from=0.0, closeness=0.0,
    level_shape=(1.0, 1.0), dynamic=0.5, t_min=0.02, t_max=0.98, student_lr=1e-4, fake_lr=1e-4,
)  # fmt: skip
DMD2 = dmd2.Config(
    method="dmd2", nfe=2, guidance=2.0, guidance_levels="shared", critic_updates=2, fake_follows=0.0, gan_weight=0.0,
    t_min=0.02, t_max=0.98, student_lr=1e-4, fake_lr=1e-4, head_lr=1e-4,
)  # fmt: skip


def slope(world: World, cfg: dmdr.Config, seed: int = 0) -> Tensor:
    value, _ = dmdr.student_loss(world, batch(), stream(seed, "loss"), cfg)
    return gradient(value, world.nets["student"])


@pytest.mark.parametrize("progress", [0.0, 0.9])
def test_without_reward_and_at_its_end_it_is_dmd2_without_a_gan(progress: float) -> None:
    cfg = CONFIG if progress == 0 else replace(CONFIG, closeness=0.75, level_shape=(4.0, 1.5))
    world = replace(tiny(dmdr, cfg), progress=progress)
    for mine, theirs in ((dmdr.student_loss, dmd2.student_loss), (dmdr.fake_loss, dmd2.critic)):
        found = mine(world, batch(), stream(0, "loss"), cfg)[0]
        assert torch.equal(found, theirs(world, batch(), stream(0, "loss"), DMD2)[0])


def test_where_the_fake_is_the_teacher_there_is_no_direction() -> None:
    cfg = replace(CONFIG, guidance=1.0, closeness=0.75)
    world = tiny(dmdr, cfg)
    world.nets["fake"].load_state_dict(world.nets["teacher"].state_dict())
    assert not slope(world, cfg).any()
    assert dmdr.student_loss(world, batch(), stream(0, "loss"), cfg)[1]["drift"] == 0


def test_the_rewards_gradient_stands_beside_the_matchings() -> None:
    world = replace(tiny(dmdr, CONFIG), progress=0.3)
    plain, both, late = (
        slope(world, replace(CONFIG, reward_weight=weight, reward_from=start))
        for weight, start in ((0.0, 0.0), (0.7, 0.3), (0.7, 0.31))
    )
    x0hat = simulated_end(world)
    of_reward = gradient(mean_pixel(x0hat, x0hat).mean(), world.nets["student"])
    torch.testing.assert_close(both, plain - 0.7 * of_reward)
    assert torch.equal(late, plain), "a cold start"


def simulated_end(world: World) -> Tensor:
    """What the loss judges, with its gradient."""
    return simulated(world, batch()["cond"], fork(stream(0, "loss"), "samples", "times", "noises")[0], CONFIG.nfe)[0]


@pytest.mark.parametrize(("progress", "left"), [(0.0, 1.0), (0.25, 0.5), (0.125, 0.8535534), (0.5, 0.0), (0.9, 0.0)])
def test_the_beginning_falls_by_half_a_cosine(progress: float, left: float) -> None:
    assert dmdr.beginning(progress, CONFIG) == pytest.approx(left, abs=1e-6)
    assert dmdr.beginning(progress, replace(CONFIG, dynamic=0.0)) == 0


@pytest.mark.parametrize("progress", [0.0, 0.25])
def test_a_target_that_is_nearer_pulls_less_in_the_same_direction(progress: float) -> None:
    """By (1 - kappa), and `drift` goes on telling the distance to the teacher itself."""
    cfg = replace(CONFIG, nfe=1, guidance=1.0, closeness=0.75)
    kappa = 0.75 * dmdr.beginning(progress, cfg)
    teacher, fake = GaussianVelocity(0.3, 1.2), GaussianVelocity(1.0, 1.2)
    student = AffineStudent(1.2, 1.0, 1)
    nets = {"student": student, "fake": fake, "teacher": teacher}
    world = World(nets=nets, space=Points((1, 1, 1), torch.float64), reward=mean_pixel, progress=progress)
    told = dmdr.student_loss(world, {"cond": tokens(64)}, stream(0, "loss"), cfg)[1]
    plain = dmdr.student_loss(world, {"cond": tokens(64)}, stream(0, "loss"), replace(cfg, closeness=0.0))[1]
    assert told["gap"].item() == pytest.approx((1 - kappa) * plain["gap"].item(), rel=1e-9)
    assert told["drift"] == plain["drift"], "of the teacher itself"


@pytest.mark.parametrize("closeness", [0.0, 0.75])
def test_it_rests_at_the_teachers_law_and_a_reward_moves_it_on(closeness: float) -> None:
    cfg = replace(CONFIG, nfe=1, guidance=1.0, closeness=closeness)
    teacher = GaussianVelocity(0.3, 1.2)
    for off in (0.0, 0.2, -0.2):
        student, fake = AffineStudent(1.2, 0.3 + off, 4), GaussianVelocity(0.3 + off, 1.2)
        nets = {"student": student, "fake": fake, "teacher": teacher}
        world = World(nets=nets, space=Points((1, 4, 4), torch.float64), reward=mean_pixel)
        given = {"cond": tokens(32)}
        still = slopes(dmdr.student_loss(world, given, stream(0, "loss"), cfg)[0], student)
        moved = slopes(dmdr.student_loss(world, given, stream(0, "loss"), replace(cfg, reward_weight=0.5))[0], student)
        assert still["shift"] * off > 0 if off else still == pytest.approx({"scale": 0, "shift": 0}, abs=1e-15)
        assert moved["shift"] == pytest.approx(still["shift"] - 0.5, abs=1e-12), "of a mean pixel, one a shift"


def test_levels_begin_coarse_and_end_alike() -> None:
    cfg = replace(CONFIG, level_shape=(4.0, 1.5), t_min=0.1, t_max=0.9)
    x = torch.zeros(20_000, 1, 1, 1, dtype=torch.float64)
    for left in (1.0, 0.5, 0.0):
        share = (dmdr.levels(x, stream(0, "times"), left, cfg) - 0.1) / 0.8
        law = stats.beta(1 + 3 * left, 1 + 0.5 * left)
        assert stats.kstest(share.numpy(), law.cdf).pvalue > 0.01
        assert share.mean().item() == pytest.approx(law.mean(), abs=0.01)
    assert (share.min() >= 0) & (share.max() <= 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("closeness", 1.0),
        ("level_shape", (0.0, 1.0)),
        ("level_shape", (math.inf, 1.0)),
        ("t_max", 0.01),
        ("dynamic", 2),
    ],
)
def test_what_could_train_nonsense_is_refused(field: str, value: object) -> None:
    made = section("dmdr")
    check(dmdr.Config, made, "rl.arms.x")
    with pytest.raises(ValueError, match=r"rl\.arms\.x"):
        check(dmdr.Config, made | {field: value}, "rl.arms.x")
