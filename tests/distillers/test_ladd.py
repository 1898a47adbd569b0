"""LADD against the optimal discriminator of Gaussians, and the distillation of ADD against its closed form."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from stages.core.path import expand, score_from_velocity
from stages.core.rng import stream
from stages.distillers import f_distill, ladd
from tests.training.gaussian import AffineStudent, GaussianVelocity, LogRatio, Pixels, slopes, tokens, world

T = 4 / 7
NONE = ladd.Distillation(weight=0.0, guidance=1.0)
CONFIG = ladd.Config(
    method="ladd", nfe=1, gan="log", head_updates=1, distillation=NONE, r1_weight=0.0, r1_noise=0.1,
    t_min=T, t_max=T + 1e-9, student_lr=1e-4, head_lr=1e-4,
)  # fmt: skip
WIDE = replace(CONFIG, t_min=0.02, t_max=0.98)
REAL, MADE = (0.3, 1.2), (-0.5, 0.7)


def given(n: int, which: int = 0) -> dict[str, Tensor]:
    mean, std = REAL
    x0 = mean + std * torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=stream(0, "x0"))
    return {"x0": x0, "cond": tokens(n, which)}


class Told(nn.Module):
    """A student whose samples are what it is told, whatever it is given."""

    sample_shape = (1, 1, 1)

    def __init__(self, samples: Tensor) -> None:
        super().__init__()
        self.samples = nn.Parameter(samples)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return (x - self.samples) / expand(t, x)


class Level(nn.Module):
    """Notes the level and pixels that it is shown; its logit is the first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def forward(self, features: Tensor) -> Tensor:
        self.shown.append(features[:, 0])
        return features[:, 0, 0]


def test_an_optimal_head_pulls_as_the_softened_reverse_kl() -> None:
    """Sample by sample: alpha (s_fake - s_real) / (1 + r), and so h(r) (alpha / sigma)^2 (D_fake - D_real)."""
    n = 200
    samples = -0.5 + 0.7 * torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=stream(1, "samples"))
    student, head = Told(samples), LogRatio(REAL, MADE)
    shown = Level()
    found = []
    for judge in (head, shown):
        nets = world(student=student, teacher=Pixels(*REAL), head=judge)
        value, _ = ladd.student_loss(nets, given(n), stream(0, "student"), WIDE)
        found.append(torch.autograd.grad(value, student.samples)[0].flatten() * n)
    [seen] = shown.shown
    x, t = seen.detach()[:, :1].reshape(n, 1, 1, 1), seen.detach()[:, 1]
    scores = [score_from_velocity(x, GaussianVelocity(*law)(x, t, tokens(n)), t).flatten() for law in (MADE, REAL)]
    r = head(seen.detach()[:, None]).exp()
    expected = (1 - t) * (scores[0] - scores[1]) / (1 + r)
    torch.testing.assert_close(found[0], expected.detach())
    assert not torch.allclose(found[1], expected.detach())
    gap = t.square() / (1 - t) * (scores[0] - scores[1])
    h = f_distill.DIVERGENCES["softened_reverse_kl"](r)
    torch.testing.assert_close(expected, h * ((1 - t) / t).square() * gap)


def test_its_mean_pull_is_the_golden_number() -> None:
    student = AffineStudent(1.2, -0.5)
    nets = world(student=student, teacher=Pixels(*REAL), head=LogRatio(REAL, (-0.5, 1.2)))
    value, _ = ladd.student_loss(nets, given(400_000), stream(0, "student"), CONFIG)
    assert slopes(value, student)["shift"] == pytest.approx(-0.441989 * 0.523717 * 0.36 / 0.64, abs=1e-3)


@pytest.mark.parametrize("gan", ["log", "hinge"])
def test_losses_are_the_definitions(gan: str) -> None:
    cfg, n = replace(WIDE, gan=gan), 64
    head = Level()
    nets = world(student=AffineStudent(0.7, -0.5), teacher=Pixels(*REAL), head=head)
    value, metrics = ladd.head_loss(nets, given(n), stream(0, "head"), cfg)
    (made, real) = (each[:, 0] for each in head.shown)
    if gan == "log":
        expected = softplus(made).mean() + softplus(-real).mean()
    else:
        expected = relu(1 + made).mean() + relu(1 - real).mean()
    assert value.item() == pytest.approx(expected.item())
    right = ((made < 0).double().mean() + (real > 0).double().mean()) / 2
    assert float(metrics["head_accuracy"]) == pytest.approx(right.item())
    assert torch.equal(head.shown[0][:, 1], head.shown[1][:, 1]), "samples and data at the same levels"
    head.shown.clear()
    value, _ = ladd.student_loss(nets, given(n), stream(0, "student"), cfg)
    logits = head.shown[0][:, 0]
    assert value.item() == pytest.approx((softplus(-logits) if gan == "log" else -logits).mean().item())


def test_the_penalty_is_the_squared_slope() -> None:
    cfg = replace(CONFIG, r1_weight=2.0, r1_noise=0.1)
    nets = world(student=AffineStudent(0.7, -0.5), teacher=Pixels(*REAL), head=Level())
    values = [ladd.head_loss(nets, given(100_000), stream(0, "head"), c)[0].item() for c in (cfg, CONFIG)]
    assert values[0] - values[1] == pytest.approx(2.0 * 0.1**2, rel=0.02)


def test_the_student_denoises_data_at_its_levels_and_noise_at_the_first() -> None:
    seen = []

    class Watched(GaussianVelocity):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            seen.append((x.flatten(), t))
            return super().forward(x, t, cond)

    n = 30_000
    batch = {"x0": torch.full((n, 1, 1, 1), 5.0).double(), "cond": tokens(n)}
    ladd.denoised(world(student=Watched(0.0, 1.0)), batch, stream(0, "d"), replace(CONFIG, nfe=3))
    [(x, t)] = seen
    for level in (1.0, 2 / 3, 1 / 3):
        here = x[(t - level).abs() < 1e-6]
        assert len(here) == pytest.approx(n / 3, rel=0.05)
        assert here.mean().item() == pytest.approx((1 - level) * 5, abs=0.05)
        assert here.std().item() == pytest.approx(level, abs=0.02)


def test_distillation_pulls_to_what_the_teacher_makes_of_the_noised_sample() -> None:
    """Its gradient at a sample is 2 lambda alpha (x0hat - D_real): score distillation, which knows no fake."""
    n, size = 40_000, 1
    student = AffineStudent(0.7, -0.5, size)
    nets = world(student=student, teacher=Pixels(*REAL), head=LogRatio(REAL, REAL))
    value, metrics = ladd.student_loss(
        nets, given(n), stream(0, "s"), replace(CONFIG, distillation=ladd.Distillation(weight=2.5, guidance=1.0))
    )
    assert value.item() == pytest.approx(2.5 * float(metrics["distillation"]) + float(metrics["gan_loss"]))
    found = slopes(value, student)
    # alpha = .6, V = alpha^2 s^2 + sigma^2: x0hat - D_real = (b - m) sigma^2 / V + .. z + .. eps
    variance = 0.36 * 1.44 + 0.64
    assert found["shift"] == pytest.approx(2 * 2.5 * 0.6 * -0.8 * 0.64 / variance, abs=0.02)
    assert found["scale"] == pytest.approx(2 * 2.5 * 0.6 * 0.7 * 0.64 / variance, abs=0.02)
