"""Direct group preference optimisation: its identities with DPO, and its direction on a Gaussian."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.advantage import group_advantage
from stages.core.guidance import guided
from stages.core.path import mix
from stages.core.rng import stream
from stages.core.spec import even
from stages.core.types import World
from stages.models.space import Points
from stages.policies import dgpo
from stages.samplers.rollout import rolled_out
from tests.training.gaussian import GaussianVelocity, ShiftedVelocity
from tests.training.tiny import TinyNet

CONFIG = dgpo.Config(
    method="dgpo", rollout_steps=4, nfe=8, guidance=1.0, reference="frozen", reference_guidance=1.0,
    advantage_scale="group", summed="rewards",
    num_draws=4,
    levels="any", t_min=0.4, t_max=1.0, beta=7.0,
    beta_kl=0.0, clip_range=1e9, old_decay=0.3, old_decay_rate=1e-3, student_lr=1e-4,
)  # fmt: skip
PIXELS = Points((1, 4, 4), torch.float64)


def batch(groups: int, size: int) -> dict[str, Tensor]:
    group = torch.arange(groups).repeat_interleave(size)
    return {"cond": group[:, None] % 6, "group": group}


def reward(samples: Tensor, _cond: Tensor) -> Tensor:
    return samples.flatten(1).mean(dim=1)


def nets(**others: nn.Module) -> World:
    roles = {"student": TinyNet(0), "old": TinyNet(1), "reference": TinyNet(2), **others}
    return World(nets=roles, space=PIXELS, reward=reward)


def prepared(world: World, groups: int = 3, size: int = 8, cfg: dgpo.Config = CONFIG) -> dict[str, Tensor]:
    return dict(dgpo.prepare(world, batch(groups, size), stream(0, "prepare"), cfg))


def errors(net: nn.Module, given: dict[str, Tensor], cfg: dgpo.Config) -> Tensor:
    """l_i [B], at the times and noises that the loss draws."""
    t, eps = dgpo.draw(given, stream(0, "loss"), cfg)
    gap = net(mix(given["x0"], eps, t), t, given["cond"]) - (eps - given["x0"])
    return gap.square().flatten(1).mean(dim=1)


def gradient(value: Tensor, net: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(net.parameters()))])


def loss(world: World, given: dict[str, Tensor], cfg: dgpo.Config = CONFIG) -> Tensor:
    return dgpo.loss(world, given, stream(0, "loss"), cfg)[0]


def test_at_the_reference_the_weight_is_half() -> None:
    student = TinyNet(0)
    world = nets(student=student, reference=TinyNet(0))
    given = prepared(world)
    expected = 0.5 * (given["advantage"] * errors(student, given, CONFIG)).mean()
    torch.testing.assert_close(gradient(loss(world, given), student), gradient(expected, student))


def test_two_samples_are_online_diffusion_dpo() -> None:
    world = nets()
    given = prepared(world, size=2)
    student = world.nets["student"]
    excess = errors(student, given, CONFIG) - errors(world.nets["reference"], given, CONFIG).detach()
    torch.testing.assert_close(given["advantage"].abs(), torch.ones(6).double())
    pair = torch.where((given["advantage"] > 0).reshape(3, 2), 1, -1) * excess.reshape(3, 2)
    dpo = -nn.functional.logsigmoid(-CONFIG.beta / 2 * pair.sum(dim=1)).mean()
    torch.testing.assert_close(gradient(loss(world, given), student), gradient(dpo, student) / CONFIG.beta)


def test_the_gradient_is_that_of_the_groups_preference_loss() -> None:
    world = nets()
    given = prepared(world)
    student = world.nets["student"]
    excess = errors(student, given, CONFIG) - errors(world.nets["reference"], given, CONFIG).detach()
    logit = (given["advantage"] * excess).reshape(3, 8).mean(dim=1)
    preference = -nn.functional.logsigmoid(-CONFIG.beta * logit).mean()
    expected = gradient(preference, student) / CONFIG.beta
    torch.testing.assert_close(gradient(loss(world, given), student), expected)


def test_constants_cancel() -> None:
    world = nets()
    given = prepared(world)
    shifted = prepared(World(nets=world.nets, space=PIXELS, reward=lambda x, a: 5 + reward(x, a)))
    torch.testing.assert_close(given["advantage"], shifted["advantage"])
    advantage = given["advantage"].reshape(3, 8)
    excess = torch.randn(3, 8, dtype=torch.float64, generator=stream(0, "excess"))
    found = dgpo.group_weight(excess, advantage, 2.0)
    torch.testing.assert_close(found, dgpo.group_weight(excess + 3.0, advantage, 2.0))
    assert (found - 0.5).abs().max() > 0.01


def test_descent_follows_the_conditional_covariance() -> None:
    # data N(1, .25), reward x: d loss / d shift = -Cov(A, v | x_t) = s2 t / (V sd) at every x_t; mean over t
    groups, size, s2 = 4000, 64, 0.25
    exact = GaussianVelocity(1.0, s2**0.5)
    student = ShiftedVelocity(exact)
    x0 = 1 + s2**0.5 * torch.randn(groups * size, 1, 1, 1, dtype=torch.float64, generator=stream(0, "x0"))
    cond = torch.zeros(groups * size, 1, dtype=torch.int64)
    given = {
        "x0": x0,
        "cond": cond,
        "reward": x0.flatten(),
        "group": torch.arange(groups).repeat_interleave(size),
        "advantage": group_advantage(x0.reshape(groups, size), "group").flatten(),
    }
    world = World(nets={"student": student, "old": exact, "reference": exact}, space=Points((1, 1, 1)))
    found = torch.autograd.grad(loss(world, given), student.shift)[0].item()
    t = CONFIG.t_min + (1 - CONFIG.t_min) * (torch.arange(1000).double() + 0.5) / 1000
    variance = (1 - t) ** 2 * s2 + t**2
    expected = (s2 * t / variance).mean().item() / s2**0.5
    assert found == pytest.approx(expected, rel=0.02)  # a group of 64 loses .6 % to its own standard deviation
    assert found > 0  # the velocity falls, so that samples rise


def test_a_group_shares_its_time_and_noise() -> None:
    given = prepared(nets())
    t, eps = dgpo.draw(given, stream(0, "loss"), CONFIG)
    assert (t.reshape(3, 8) == t.reshape(3, 8)[:, :1]).all()
    assert (eps.reshape(3, 8, 16) == eps.reshape(3, 8, 16)[:, :1]).all()
    assert len(t.unique()) == 3
    assert t.min() >= CONFIG.t_min
    assert given["x0"].reshape(3, 8, 16).std(dim=1).min() > 0  # while its samples differ


def test_clipping_stops_what_moved_far_enough_and_only_that() -> None:
    old = torch.zeros(6, dtype=torch.float64)
    error = torch.tensor([-0.2, 0.2, -0.05, -0.2, 0.2, 0.05], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0], dtype=torch.float64)
    kept, far = dgpo.clipped_error(error, old, advantage, 0.1)
    assert far.tolist() == [True, False, False, False, True, False]
    torch.testing.assert_close(kept, error)
    (slope,) = torch.autograd.grad(kept.sum(), error)
    assert slope.tolist() == [0, 1, 1, 1, 0, 1]


def test_the_kl_term_is_the_squared_velocity_gap() -> None:
    world = nets()
    given = prepared(world)
    t, eps = dgpo.draw(given, stream(0, "loss"), CONFIG)
    x_t = mix(given["x0"], eps, t)
    gap = world.nets["student"](x_t, t, given["cond"]) - world.nets["reference"](x_t, t, given["cond"])
    added = loss(world, given, replace(CONFIG, beta_kl=0.3)) - loss(world, given)
    torch.testing.assert_close(added, 0.3 * gap.square().mean())


def test_equal_rewards_teach_nothing() -> None:
    world = World(nets=nets().nets, space=PIXELS, reward=lambda x, _: torch.full((len(x),), 0.3, dtype=x.dtype))
    given = prepared(world)
    assert (gradient(loss(world, given), world.nets["student"]) == 0).all()


def test_a_reward_without_a_verdict_is_refused() -> None:
    def broken(samples: Tensor, cond: Tensor) -> Tensor:
        return reward(samples, cond).index_fill(0, torch.tensor([2]), torch.nan)

    with pytest.raises(ValueError, match=r"dgpo: reward: 1 of 24 values are not finite; look at the samples"):
        prepared(World(nets=nets().nets, space=PIXELS, reward=broken))


def test_the_old_policy_slows_down_as_training_goes_on() -> None:
    decay = dgpo.roles(CONFIG)["old"].decay
    assert [decay(update) for update in (1, 100, 300, 1000)] == pytest.approx([0.001, 0.1, 0.3, 0.3])


def test_roll_outs_may_be_guided_while_the_loss_is_not() -> None:
    world, cfg = nets(), replace(CONFIG, guidance=3.0)
    given = prepared(world, cfg=cfg)
    noise = PIXELS.noise(24, stream(0, "prepare"))
    student = guided(world.nets["student"], 3.0)
    expected = rolled_out(student, noise, even(CONFIG.rollout_steps).times, given["cond"])[:, -1]
    torch.testing.assert_close(given["x0"], expected.detach())
    assert torch.equal(loss(world, given, cfg), loss(world, given))
    assert dgpo.sampler(cfg).guidance == 3.0


def test_a_moving_reference_is_the_slow_average() -> None:
    cfg, student = replace(CONFIG, reference="moving"), TinyNet(0)
    world = nets(student=student, old=TinyNet(0))
    given = prepared(world)
    half = 0.5 * (given["advantage"] * errors(student, given, CONFIG)).mean()
    torch.testing.assert_close(gradient(loss(world, given, cfg), student), gradient(half, student))
    apart = nets(student=student)
    same = nets(student=student, reference=apart.nets["old"])
    torch.testing.assert_close(loss(apart, given, cfg), loss(same, given))
    with pytest.raises(ValueError, match=r"reference_guidance=2.0: a moving reference has learnt its guidance; set it"):
        replace(cfg, reference_guidance=2.0)


def test_a_guided_reference_is_compared_with_and_pulls() -> None:
    cfg = replace(CONFIG, reference_guidance=2.5, beta_kl=0.3)
    world = nets()
    given = prepared(world)
    student, wide = world.nets["student"], guided(world.nets["reference"], 2.5)
    excess = errors(student, given, CONFIG) - errors(wide, given, CONFIG).detach()  # type: ignore[arg-type]
    logit = (given["advantage"] * excess).reshape(3, 8).mean(dim=1)
    t, eps = dgpo.draw(given, stream(0, "loss"), CONFIG)
    x_t = mix(given["x0"], eps, t)
    drift = (student(x_t, t, given["cond"]) - wide(x_t, t, given["cond"]).detach()).square().mean()
    preference = -nn.functional.logsigmoid(-CONFIG.beta * logit).mean() / CONFIG.beta
    expected = gradient(preference + 0.3 * drift, student)
    torch.testing.assert_close(gradient(loss(world, given, cfg), student), expected)
