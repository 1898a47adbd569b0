"""Phased distribution matching on Gaussians: what a phase's end is followed by is known at every level above it."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.config import check
from stages.core.path import expand, transition, transition_residual
from stages.core.rng import fork, normal_like, stream, uniform
from stages.core.spec import even
from stages.distillers import dmd2, phased_dmd
from stages.samplers.rollout import moved, rolled_out
from stages.training import jumps
from tests.training.gaussian import AffineStudent, GaussianVelocity, slopes, tokens, world
from tests.training.tiny import TinyNet

F64 = torch.float64
T = 4 / 7
CONFIG = phased_dmd.Config(
    method="phased_dmd", nfe=1, num_phases=1, guidance=1.0, weighs="data", t_min=0.02, t_max=0.98, fake_updates=1,
    student_lr=1e-4, fake_lr=1e-4, betas=(0.0, 0.95),
)  # fmt: skip
TWO = replace(CONFIG, nfe=4, num_phases=2)


def batch(n: int, which: int = 0) -> dict[str, Tensor]:
    return {"cond": tokens(n, which)}


@pytest.mark.parametrize(("s", "tau", "exact"), [(0.3, 0.6, 1.25), (0.5, 0.9, 1.0769)])
def test_the_conditional_velocity_is_that_of_the_law_on_average(s: float, tau: float, exact: float) -> None:
    """Of N(1, .25): the slope of what the fake regresses, and of the velocity in closed form."""
    n = 400_000
    x0, eps, more = torch.randn(3, n, 1, 1, 1, dtype=F64, generator=stream(0, "x"))
    low, level = (torch.full((n,), time, dtype=F64) for time in (s, tau))
    x_s = (1 - s) * (1 + 0.5 * x0) + s * eps
    x_tau, _, beta = transition(x_s, low, level, more)
    target = -transition_residual(torch.zeros_like(x_s), x_s, low, level, more) * tau / beta
    slope = ((target - target.mean()) * (x_tau - x_tau.mean())).mean() / x_tau.var()
    assert slope.item() == pytest.approx(exact, abs=5e-3)
    ends = GaussianVelocity(1.0, 0.5)(torch.tensor([0.0, 1.0], dtype=F64).reshape(2, 1, 1, 1), level[:2], tokens(2))
    assert (ends[1] - ends[0]).item() == pytest.approx(exact, abs=1e-4)


def test_one_phase_of_one_step_is_dmd2_without_its_gan() -> None:
    """To rounding, with the same random numbers."""
    teacher, student, fake = (TinyNet(seed) for seed in range(3))
    cfg = dmd2.Config(
        guidance_levels="shared", fake_follows=0.0, method="dmd2", nfe=1, guidance=1.0, critic_updates=1,
        gan_weight=0.0, t_min=0.02, t_max=0.98, student_lr=1e-4, fake_lr=1e-4, head_lr=1e-4,
    )  # fmt: skip
    weights = list(student.parameters())
    theirs, _ = dmd2.student_loss(world(student=student, teacher=teacher, fake=fake), batch(8, 2), stream(0, "l"), cfg)
    ours, _ = phased_dmd.student_loss(
        world(student=student, teacher=teacher, fake1=fake), batch(8, 2), stream(0, "l"), CONFIG
    )
    expected, found = (torch.autograd.grad(value, weights) for value in (theirs, ours))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_fake_of_a_phase_that_ends_at_data_regresses_a_velocity() -> None:
    student, fake = AffineStudent(0.7, -0.5), GaussianVelocity(0.1, 0.9)
    value, _ = phased_dmd.fake_loss(world(student=student, fake1=fake), batch(50), stream(0, "l"), CONFIG)
    samples, times, noises = fork(stream(0, "l"), "samples", "times", "noises")
    x0, _, s = phased_dmd.ended(world(student=student), tokens(50), samples, CONFIG)
    t, eps = 1 - uniform(50, times, s), normal_like(x0, noises)
    x_t = (1 - expand(t, x0)) * x0 + expand(t, x0) * eps
    expected = (fake(x_t, t, tokens(50)) - (eps - x0)).square().mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)


def test_rows_end_where_their_phases_do() -> None:
    """In the states of the student's own steps, one of which goes to the end at once."""
    student, cond = TinyNet(3), tokens(60, 2)
    x_s, x0hat, s = phased_dmd.ended(world(student=student), cond, stream(0, "l"), TWO)
    assert s.tolist() == [0.5, 0.0] * 30
    start, _ = fork(stream(0, "l"), "start", "which")
    noise = torch.randn(60, 1, 4, 4, dtype=F64, generator=start)
    times = even(4).times
    states = rolled_out(student, noise, times[:-1], cond)
    taken = []
    for row in range(60):
        first = 2 * (row % 2)
        ends = []
        for k in (first, first + 1):
            x, t = states[row : row + 1, k], torch.full((1,), times[k], dtype=F64)
            v = student(x, t, cond[:1])
            ends.append((moved(x, v, t, s[row : row + 1]), x - times[k] * v))
        [k] = [k for k, (end, _) in enumerate(ends) if torch.allclose(end[0], x_s[row])]
        torch.testing.assert_close(ends[k][1][0], x0hat[row])
        taken.append(k)
    assert set(taken) == {0, 1}


class Apart(nn.Module):
    """Notes the levels that it is asked at."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.seen = net, []

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.seen.append(t)
        return self.net(x, t, cond)


def test_a_fake_sees_its_phase_alone_above_its_end() -> None:
    fakes = [Apart(TinyNet(seed)) for seed in (1, 2)]
    nets = world(student=TinyNet(3), teacher=TinyNet(0), fake1=fakes[0], fake2=fakes[1])
    for loss, low in ((phased_dmd.fake_loss, 0.0), (phased_dmd.student_loss, 0.02)):
        loss(nets, batch(2001, 1), stream(0, "l"), TWO)
        of_first, of_second = (fake.seen.pop() for fake in fakes)
        assert (len(of_first), len(of_second)) == (1001, 1000)
        assert 0.5 < of_first.min() < 0.51
        assert low <= of_second.min() < low + 0.01


def test_the_answers_are_in_the_order_of_the_rows() -> None:
    fakes = [TinyNet(1), TinyNet(2)]
    x, t = torch.randn(5, 1, 4, 4, dtype=F64, generator=stream(0, "x")), torch.linspace(0.1, 0.9, 5, dtype=F64)
    found = phased_dmd.by_phase(world(fake1=fakes[0], fake2=fakes[1]), x, t, tokens(5, 1), TWO)
    expected = torch.cat([fakes[row % 2](x[row : row + 1], t[row : row + 1], tokens(1, 1)) for row in range(5)])
    torch.testing.assert_close(found, expected)


class Steps(nn.Module):
    """x_s = scale x_1 + shift, at s = 1/2, whatever the step; its law is N(shift, scale^2)."""

    sample_shape = (1, 4, 4)

    def __init__(self, scale: float, shift: float) -> None:
        super().__init__()
        self.scale, self.shift = (nn.Parameter(torch.tensor(each, dtype=F64)) for each in (scale, shift))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return (x - (self.scale * x + self.shift)) / (expand(t, x) - 0.5).clamp_min(0.5)


class Law(nn.Module):
    """The velocity of x_tau = a x_s + beta eps for x_s of N(shift, scale^2) at s = 1/2, by the score."""

    def __init__(self, scale: float, shift: float) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        t = expand(t, x)
        a = (1 - t) / 0.5
        variance = a.square() * self.scale**2 + t.square() - (a * 0.5).square()
        score = -(x - a * self.shift) / variance
        return (-x - t * score) / (1 - t)


@pytest.mark.parametrize("weighs", ["data", "score"])
def test_a_phase_whose_end_is_the_teachers_is_at_rest(weighs: str) -> None:
    """The teacher's x_s of N(.7, .4^2) is N(.35, .29), and so the fixed point; elsewhere it is pulled there."""
    teacher, there = GaussianVelocity(0.7, 0.4), ((0.25 * 0.16 + 0.25) ** 0.5, 0.35)
    cfg = replace(TWO, nfe=2, weighs=weighs, t_max=0.9)
    found = []
    for law in (there, (0.8, 0.1)):
        student, fake = Steps(*law), Law(*law)
        other = Law(0.4, 0.7)  # of the second phase, which these rows have none of
        nets = world(student=student, teacher=teacher, fake1=fake, fake2=other)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(phased_dmd, "phase_of", lambda n, *_: torch.zeros(n, dtype=torch.int64))
            found.append(slopes(phased_dmd.student_loss(nets, batch(4000), stream(0, "l"), cfg)[0], student))
    assert found[0] == pytest.approx({"scale": 0, "shift": 0}, abs=1e-12)
    assert found[1]["scale"] > 0.01, "too wide"
    assert found[1]["shift"] < -0.01, "too low"


def test_the_score_weight_is_the_gradient_of_the_divergence() -> None:
    """Of KL(x_tau of the student | of the teacher), by the student's shift: a (E[x_tau] - m) / V of the teacher."""
    law, tau = (0.8, 0.1), 0.7
    student, fake, teacher = Steps(*law), Law(*law), GaussianVelocity(0.7, 0.4)
    cfg = replace(TWO, nfe=2, weighs="score", t_min=tau, t_max=tau + 1e-9)
    nets = world(student=student, teacher=teacher, fake1=fake, fake2=fake)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phased_dmd, "phase_of", lambda n, *_: torch.zeros(n, dtype=torch.int64))
        found = slopes(phased_dmd.student_loss(nets, batch(40_000), stream(0, "l"), cfg)[0], student)
    a = (1 - tau) / 0.5
    variance = (1 - tau) ** 2 * 0.16 + tau**2
    assert found["shift"] == pytest.approx(a * (a * 0.1 - (1 - tau) * 0.7) / variance, abs=2e-3)


def test_a_jump_of_one_step_is_tdms() -> None:
    """Phases of one step each: the same x_s, and tdm's exact target there, with tau up to 1 for all."""
    cfg = replace(TWO, nfe=2)
    student = TinyNet(3)
    x_s, x0hat, s = phased_dmd.ended(world(student=student), tokens(40, 1), stream(0, "l"), cfg)
    start, _ = fork(stream(0, "l"), "start", "which")
    states = rolled_out(student, torch.randn(40, 1, 4, 4, dtype=F64, generator=start), (1.0, 0.5), tokens(40, 1))
    k = torch.arange(40) % 2
    x_k, t_k = states[torch.arange(40), k], torch.tensor([1.0, 0.5], dtype=F64)[k]
    jump = jumps.Jump(x_k=x_k, t_k=t_k, m=s, tau=s, eps=x_k)
    to = jumps.land(jump, student(x_k, t_k, tokens(40, 1)))
    torch.testing.assert_close((to.x_m, to.x0hat), (x_s, x0hat))


def test_phases_are_of_equally_many_steps_and_end_below_the_largest_level() -> None:
    for words, message in (
        ({"num_phases": 3}, "num_phases=3 does not divide nfe=4; name a divisor of it"),
        ({"t_max": 0.5}, "t_max=0.5 must exceed t_min=0.02, and 0.5, where a phase ends"),
    ):
        with pytest.raises(ValueError, match=message):
            check(phased_dmd.Config, {**asdict(TWO), "betas": [0.0, 0.9], **words}, "arms.x")
