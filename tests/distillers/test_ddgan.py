"""Denoising diffusion GANs on Gaussians: the law of a step back, what the head sees of it, and what z is for."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.core.config import check
from stages.core.path import expand
from stages.core.rng import stream
from stages.core.types import World
from stages.distillers import ddgan
from stages.models.discriminator import Discriminator
from stages.models.space import Points
from stages.training.roles import HEADS, Start, heads_of
from tests.training.gaussian import Pixels, tokens

F64 = torch.float64
MEAN, STD = 0.8, 0.5
CONFIG = ddgan.Config(
    method="ddgan", nfe=4, gan="log", head_updates=1, r1_weight=0.0, r1_noise=1e-3, student_lr=1e-3, head_lr=1e-3,
    betas=(0.5, 0.9),
)  # fmt: skip


class Predicts(nn.Module):
    """A student whose x0hat is a function of (x, t, z)."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make, self.scale = make, nn.Parameter(torch.ones((), dtype=F64))
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, z: Tensor) -> Tensor:
        self.asked.append((t, z))
        return (x - self.scale * self.make(x, expand(t, x), z)) / expand(t, x)


class Plain(nn.Module):
    """Logits that a function makes of tokens (x_s, s, x_t, t) of one pixel."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make, self.weight = make, nn.Parameter(torch.ones((), dtype=F64))

    def forward(self, features: Tensor) -> Tensor:
        return self.weight * self.make(*features[:, 0].unbind(dim=1))


def posterior(x: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """A draw of the data given x_t, which is Gaussian."""
    slope = (1 - t) * STD**2 / ((1 - t) ** 2 * STD**2 + t**2)
    spread = (STD**2 * (1 - slope * (1 - t))).sqrt()
    return MEAN + slope * (x - (1 - t) * MEAN) + spread * z


def average(x: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """Its mean, as a student without z would learn."""
    return posterior(x, t, 0 * z)


def data(n: int) -> Tensor:
    return MEAN + STD * torch.randn(n, 1, 1, 1, dtype=F64, generator=stream(0, "x0"))


def world(student: nn.Module, head: nn.Module | None = None) -> World:
    nets = {"student": student, "teacher": Pixels(MEAN, STD), "head": head or Plain(lambda a, _s, _b, _t: a)}
    return World(nets=nets, space=Points((1, 1, 1), F64))


def joint(x_s: Tensor, pair: ddgan.Pair, index: int) -> tuple[Tensor, Tensor]:
    rows = pair.index == index
    both = torch.stack([x_s[rows].flatten(), pair.x_t[rows].flatten()])
    return both.mean(dim=1), torch.cov(both)


# The law of a step


@pytest.mark.parametrize("index", range(4))
def test_with_the_posterior_for_z_a_step_has_the_law_of_data_jointly_with_where_it_came_from(index: int) -> None:
    pair = ddgan.drawn_pair(data(400_000), stream(0, "p"), CONFIG)
    made = ddgan.stepped(world(Predicts(posterior)), pair, tokens(len(pair.t)), stream(1, "s"), CONFIG)
    for ours, theirs in zip(joint(made, pair, index), joint(pair.x_s, pair, index), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=1e-2)


def test_without_z_steps_are_too_narrow() -> None:
    pair = ddgan.drawn_pair(data(400_000), stream(0, "p"), CONFIG)
    made = ddgan.stepped(world(Predicts(average)), pair, tokens(len(pair.t)), stream(1, "s"), CONFIG)
    _, ours = joint(made, pair, 0)  # from pure noise to t = .75
    assert ours[0, 0].item() == pytest.approx(0.75**2, rel=0.02), "a single x0hat, with the noise of that level"
    assert joint(pair.x_s, pair, 0)[1][0, 0].item() == pytest.approx(0.75**2 + (0.25 * STD) ** 2, rel=0.02)


def test_data_itself_gives_the_kernel_of_its_noise() -> None:
    """x0hat = x0: x_s has mean (1 - s) x0 and variance s^2 given x0, whatever x_t."""
    x0 = data(200_000)
    pair = ddgan.drawn_pair(x0, stream(0, "p"), CONFIG)
    made = ddgan.stepped(world(Predicts(lambda *_: x0)), pair, tokens(len(x0)), stream(1, "s"), CONFIG)
    for index, s in enumerate((0.75, 0.5, 0.25, 0.0)):
        rows = pair.index == index
        left = (made - (1 - s) * x0)[rows]
        assert left.mean().item() == pytest.approx(0, abs=1e-2)
        assert left.std().item() == pytest.approx(s, rel=0.02, abs=1e-6)
        assert rows.double().mean().item() == pytest.approx(0.25, abs=0.01), "steps are drawn equally often"


def test_one_step_is_a_gan_of_pure_noise_and_z_is_fresh_in_each_row() -> None:
    cfg, net = replace(CONFIG, nfe=1), Predicts(lambda x, _t, z: x + 10 * z)
    pair = ddgan.drawn_pair(data(1000), stream(0, "p"), cfg)
    made = ddgan.stepped(world(net), pair, tokens(1000), stream(1, "s"), cfg)
    [(t, z)] = net.asked
    assert (t == 1).all()
    assert z.shape == pair.x_t.shape
    assert z.std().item() == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(made, pair.x_t + 10 * z)  # no noise at data
    torch.testing.assert_close(pair.x_s, data(1000))
    assert pair.x_t.std().item() == pytest.approx(1, abs=0.1)


# What the head sees


def test_the_head_sees_a_state_and_the_one_that_it_came_from() -> None:
    n, shown = 40, []
    head = Plain(lambda *seen: shown.append(seen) or seen[0])
    rng = stream(3, "l")
    ddgan.head_loss(world(Predicts(posterior), head), {"x0": data(n), "cond": tokens(n)}, rng, CONFIG)
    (x_made, s, x_t, t), (x_real, s_real, x_t_real, t_real) = shown
    assert torch.equal(x_t, x_t_real), "the two are told apart given the same"
    assert torch.equal(t, t_real)
    assert torch.equal(s, s_real)
    assert torch.allclose(t - s, torch.full_like(t, 0.25) - ddgan.CLEAN * (s == ddgan.CLEAN))
    assert not torch.allclose(x_made, x_real)
    assert s.min() == ddgan.CLEAN, "clean samples"


@pytest.mark.parametrize("gan", ["log", "hinge"])
def test_losses_are_the_gans_and_each_side_learns_its_own(gan: str) -> None:
    n, cfg = 200_000, replace(CONFIG, gan=gan)
    head = Plain(lambda a, _s, b, _t: a + 0.3 * b)
    nets, batch = world(Predicts(posterior), head), {"x0": data(n), "cond": tokens(n)}
    value, found = ddgan.head_loss(nets, batch, stream(0, "l"), cfg)
    pair = ddgan.drawn_pair(batch["x0"], stream(5, "p"), cfg)
    logit = (pair.x_s + 0.3 * pair.x_t).flatten()
    loss = torch.nn.functional.softplus if gan == "log" else lambda y: (1 + y).relu()
    expected = (loss(logit) + loss(-logit)).mean()  # both have one law
    assert value.item() == pytest.approx(expected.item(), rel=0.01)
    assert found["head_accuracy"].item() == pytest.approx(0.5, abs=0.01)
    value, _ = ddgan.student_loss(nets, batch, stream(0, "l"), cfg)
    expected = torch.nn.functional.softplus(-logit).mean() if gan == "log" else -logit.mean()
    assert value.item() == pytest.approx(expected.item(), rel=0.02, abs=5e-3)
    value.backward()
    assert head.weight.grad is None
    assert nets.nets["student"].scale.grad.abs() > 0


def test_the_penalty_is_half_the_squared_slope_at_data() -> None:
    head = Plain(lambda a, _s, _b, _t: a**2)
    batch = {"x0": data(200_000), "cond": tokens(200_000)}
    plain, with_slope = (
        ddgan.head_loss(world(Predicts(posterior), head), batch, stream(0, "l"), replace(CONFIG, r1_weight=weight))[0]
        for weight in (0.0, 3.0)
    )
    pair = ddgan.drawn_pair(batch["x0"], stream(5, "p"), CONFIG)
    expected = 3.0 / 2 * (2 * pair.x_s).square().mean()
    assert (with_slope - plain).item() == pytest.approx(expected.item(), rel=0.02)


def test_the_students_gradient_is_that_of_its_steps_towards_where_the_head_points() -> None:
    """A linear head: d/dx0hat of -logit is minus the weight of x0hat in the posterior's mean."""
    n, cfg = 100_000, replace(CONFIG, gan="hinge")
    nets = world(Predicts(lambda x, t, z: torch.ones_like(x)))
    ddgan.student_loss(nets, {"x0": data(n), "cond": tokens(n)}, stream(0, "l"), cfg)[0].backward()
    expected = 0.0
    for t, s in ((1, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0)):  # the weight: 1 - s - a (s/t)^2 (1 - t)
        expected -= (1 - s - (1 - t) / (1 - s) * (s / t) ** 2 * (1 - t)) / 4
    assert nets.nets["student"].scale.grad.item() == pytest.approx(expected, abs=5e-3)


# What it is made of


def test_the_head_is_on_pairs_and_the_student_is_told_noise() -> None:
    roles = ddgan.roles(CONFIG)
    assert heads_of(roles) == ["head"]
    assert roles["student"].latent_variable
    assert roles["student"].told_more == "that is told noise"
    teacher = nn.Module()
    teacher.feature_dim = 5  # type: ignore[assignment]
    head = HEADS["pair"](Start(teacher, teacher, Points((1, 1, 1))), 0)
    assert isinstance(head, Discriminator)
    assert head(torch.zeros(2, 3, 10)).shape == (2,)
    assert ddgan.sampler(CONFIG).rule == {"name": "ddgan"}


def test_a_head_of_pairs_tells_what_no_sum_over_the_two_can() -> None:
    """x_s alone and x_t alone have one law each; together they are made of another."""
    torch.manual_seed(0)
    head = HEADS["pair"](Start(Pixels(0, 1), _sees(4), Points((1, 1, 1))), 0).double()
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(200):
        a, b = torch.randn(2, 256, 1, 4, dtype=F64)
        real, made = torch.cat([a, a + 0.1 * b], dim=2), torch.cat([a, -a + 0.1 * b], dim=2)
        loss = (torch.nn.functional.softplus(-head(real)) + torch.nn.functional.softplus(head(made))).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.7 * 2 * math.log(2)


def _sees(size: int) -> nn.Module:
    made = nn.Module()
    made.feature_dim = size  # type: ignore[assignment]
    return made


def test_what_no_number_may_be() -> None:
    told = {
        "method": "ddgan", "nfe": 0, "gan": "other", "head_updates": 1, "r1_weight": -1.0, "r1_noise": 0.0,
        "student_lr": 1e-3, "head_lr": 1e-3, "betas": [0.5, 1.0],
    }  # fmt: skip
    with pytest.raises(ValueError, match="nfe: ") as found:
        check(ddgan.Config, told, "arms.x")
    assert all(word in str(found.value) for word in ("gan: ", "r1_weight: ", "r1_noise: ", "betas"))
