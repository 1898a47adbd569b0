"""DMD2 against Gaussians, against TDM at one step, and its critics against optimal ones."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.rng import stream
from stages.distillers import dmd2, tdm
from stages.training.critics import prompted, simulated
from stages.training.method import Blend
from tests.training.gaussian import AffineStudent, GaussianVelocity, Pixels, slopes, tokens, world
from tests.training.tiny import TinyHead, TinyNet

T = 4 / 7
CONFIG = dmd2.Config(
    guidance_levels="shared", fake_follows=0.0,
    method="dmd2", nfe=1, guidance=1.0, critic_updates=5, gan_weight=0.0, t_min=T, t_max=T + 1e-9,
    student_lr=1e-4, fake_lr=1e-4, head_lr=1e-4,
)  # fmt: skip
WIDE = replace(CONFIG, t_min=0.02, t_max=0.98)
TDM = tdm.Config(
    guidance_levels="shared",
    method="tdm", nfe=2, guidance=1.0, interval="own", t_min=0.02, t_max=0.98, fake_target="sample", huber_c=1e-3,
    student_lr=1e-4, fake_lr=1e-4, betas=(0.0, 0.95),
)  # fmt: skip
SIZE, COUNT = 64, 128


class Likelihood(nn.Module):
    """slope * log p_real / p_made of the first pixel, for N(1, .5^2) against N(0, .5^2), plus bias."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        x, t = features[:, 0, 0], features[:, 0, 1]
        variance = (1 - t) ** 2 * 0.25 + t**2
        return self.slope * ((1 - t) * x - (1 - t) ** 2 / 2) / variance + self.bias


def given(n: int = COUNT, which: int = 0) -> dict[str, Tensor]:
    return {"x0": torch.zeros(n, 1, 1, 1, dtype=torch.float64), "cond": tokens(n, which)}


def student_slopes(fake: GaussianVelocity) -> dict[str, float]:
    student = AffineStudent(0.7, -0.5, SIZE)
    nets = world(student=student, fake=fake, teacher=Pixels(0.3, 1.2), head=Likelihood(1.0))
    value, metrics = dmd2.student_loss(nets, given(), stream(0, "student"), CONFIG)
    return {name: slope * float(metrics["deviation"]) for name, slope in slopes(value, student).items()}


def test_one_step_gradient_is_the_closed_form() -> None:
    assert student_slopes(GaussianVelocity(-0.5, 0.7)) == pytest.approx(
        {"shift": -0.441989, "scale": -0.162010}, abs=4e-3
    )


def test_a_stale_fake_flattens_the_gradient_as_predicted() -> None:
    assert student_slopes(GaussianVelocity(0.1, 0.9)) == pytest.approx(
        {"shift": -0.029795, "scale": -0.094153}, abs=4e-3
    )


def test_one_step_tdm_is_dmd2_without_its_gan() -> None:
    """Same sample, same noise level, same noise: the same gradient, once TDM's distance is nearly quadratic."""
    quadratic = tdm.Config(
        guidance_levels="shared",
        method="tdm", nfe=1, guidance=2.0, interval="own", t_min=0.3, t_max=0.3 + 1e-12, fake_target="sample",
        huber_c=1e5, student_lr=1e-4, fake_lr=1e-4, betas=(0.0, 0.95),
    )  # fmt: skip
    cfg = replace(CONFIG, guidance=2.0, t_min=0.3, t_max=0.3 + 1e-12)
    student, fake, teacher = TinyNet(0, (1, 4, 4)), TinyNet(1), TinyNet(2)
    nets = world(student=student, fake=fake, teacher=teacher, head=TinyHead(3))
    n, found = 4000, []
    batch = {
        "cond": tokens(n, 1),
        "x0": torch.zeros(n, 1, 4, 4).double(),
    }
    prepared = tdm.prepare(nets, batch, stream(0, "p"), quadratic)
    for value in (
        tdm.student_loss(nets, prepared, stream(0, "s"), quadratic)[0] * quadratic.huber_c,
        dmd2.student_loss(nets, batch, stream(1, "s"), cfg)[0],
    ):
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, list(student.parameters()))]))
    # the draws differ, so that the two agree as estimates of one expectation
    assert torch.cosine_similarity(*found, dim=0) > 0.995
    assert (found[0].norm() / found[1].norm()).item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_guidance_moves_the_fixed_point_by_scale_minus_one(scale: float) -> None:
    cfg, centre = replace(WIDE, guidance=scale), 0.8 + (scale - 1) * 0.6
    student = AffineStudent(0.5, centre, 4)
    fake, teacher = GaussianVelocity(centre, 0.5), Pixels([0.2, 0.8], 0.5)
    nets = world(student=student, fake=fake, teacher=teacher, head=Likelihood(1.0))
    value, _ = dmd2.student_loss(nets, given(which=1), stream(0, "student"), cfg)
    assert slopes(value, student) == pytest.approx({"scale": 0, "shift": 0}, abs=1e-12)


def test_the_fake_is_optimal_at_the_students_denoiser() -> None:
    student, found = AffineStudent(0.7, -0.5, SIZE), {}
    for name, fake in {"exact": GaussianVelocity(-0.5, 0.7), "off": GaussianVelocity(-0.4, 0.9)}.items():
        nets = world(student=student, fake=fake, teacher=Pixels(0.3, 1.2), head=Likelihood(1.0))
        batch = {**given(), "x0": torch.zeros(COUNT, 1, SIZE, SIZE, dtype=torch.float64)}
        found[name] = slopes(dmd2.critic(nets, batch, stream(0, "critic"), WIDE)[0], fake)
    assert found["exact"] == pytest.approx({"mean": 0, "std": 0}, abs=5e-3)
    assert min(abs(slope) for slope in found["off"].values()) > 0.03


@pytest.mark.parametrize(("slope", "sign"), [(1.0, 0), (0.5, -1), (2.0, 1)])
def test_the_head_is_optimal_at_the_log_density_ratio(slope: float, sign: int) -> None:
    # samples N(0, .5^2), data N(1, .5^2): the optimal logit is log p_data / p_samples, positive where real
    n = 200_000
    head, student = Likelihood(slope), AffineStudent(0.5, 0.0)
    x0 = 1 + 0.5 * torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=stream(0, "x0"))
    nets = world(student=student, fake=GaussianVelocity(0.0, 0.5), teacher=Pixels(0.3, 1.2), head=head)
    loss, _ = dmd2.critic(nets, {**given(n), "x0": x0}, stream(0, "critic"), replace(WIDE, gan_weight=1.0))
    found = slopes(loss, head)
    assert found["bias"] == pytest.approx(0, abs=6e-3)
    if sign:
        assert math.copysign(1, found["slope"]) == sign
        assert abs(found["slope"]) > 0.02
    else:
        assert found["slope"] == pytest.approx(0, abs=6e-3)


def test_the_gan_pulls_samples_towards_data() -> None:
    student, same = AffineStudent(0.5, 0.0), Pixels(0.3, 1.2)
    nets = world(student=student, fake=same, teacher=same, head=Likelihood(1.0))
    value, metrics = dmd2.student_loss(nets, given(5000), stream(0, "student"), replace(WIDE, gan_weight=0.1))
    assert slopes(value, student)["shift"] < -1e-3  # data lie above
    assert value.item() == pytest.approx(0.1 * float(metrics["gan_loss"]), rel=1e-6)  # fake = teacher: no matching


def test_backward_simulation_visits_every_level_with_gradient_through_the_last_call() -> None:
    seen = []

    class Watched(GaussianVelocity):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            seen.append((t[0].item(), torch.is_grad_enabled(), x.requires_grad))
            return super().forward(x, t, cond)

    nets, ends = world(student=Watched(0.7, 0.4, 4)), set()
    for seed in range(12):
        seen.clear()
        out, at = simulated(nets, tokens(4), stream(seed, "g"), 3)
        assert out.requires_grad
        assert at.tolist() == pytest.approx([seen[-1][0]] * 4)
        assert [level for level, *_ in seen] == pytest.approx([1 - i / 3 for i in range(len(seen))])
        assert [grad for _, grad, _ in seen] == [False] * (len(seen) - 1) + [True]
        assert not any(attached for *_, attached in seen)
        ends.add(len(seen))
    assert ends == {1, 2, 3}


def test_critics_run_at_their_own_time_scale() -> None:
    with_gan = replace(CONFIG, gan_weight=1e-3)
    assert [(p.name, p.trains, p.repeats) for p in dmd2.phases(with_gan)] == [
        ("critic", ("fake", "head"), 5),
        ("student", ("student",), 1),
    ]


def test_without_its_gan_it_has_no_head_and_sees_no_image() -> None:
    assert dmd2.needs(CONFIG) == "prompts"
    assert dmd2.needs(replace(CONFIG, gan_weight=1e-3)) == "images"
    assert dmd2.roles(CONFIG).keys() == {"student", "fake"}
    assert dmd2.phases(CONFIG)[0].trains == ("fake",)
    nets = world(student=AffineStudent(0.7, -0.5), fake=GaussianVelocity(0.0, 0.5), teacher=Pixels(0.3, 1.2))
    batch = {"cond": tokens(64)}
    for phase in dmd2.phases(CONFIG):
        value, metrics = phase.loss(nets, batch, stream(0, phase.name), CONFIG)
        assert value.isfinite()
        assert not {"gan_loss", "head_loss"} & metrics.keys()


@pytest.mark.parametrize(("cap", "kappa"), [(1.0, 1.0), (0.75, 0.82044), (0.5, 0.52725), (0.25, 0.15916)])
def test_below_the_students_level_guidance_pulls_less(cap: float, kappa: float) -> None:
    """(w - 1) (m_c - m_u) E[tau^2 / V] at the levels below, over that at all, which matching holds against it."""
    n, w = 400_000, 3.0
    nets = world(teacher=GaussianVelocity([0.2, 0.8], 0.5))
    x0hat, below = torch.zeros(n, 1, 1, 1).double(), torch.full((n,), cap).double()
    found = prompted(nets, x0hat, below, tokens(n, 1), stream(0, "engine"), w).mean().item()
    t = (torch.arange(100_000).double() + 0.5) / 100_000
    held = (t.square() / ((1 - t).square() * 0.25 + t.square())).mean().item()
    assert found / (held * (w - 1) * 0.6) == pytest.approx(kappa, abs=4e-3)


@pytest.mark.parametrize("module", [dmd2, tdm])
def test_without_guidance_its_levels_do_not_matter_and_with_it_they_move_the_student_alone(module: object) -> None:
    pick = {dmd2: WIDE, tdm: TDM}[module]
    nets = world(student=TinyNet(0), fake=TinyNet(1), teacher=TinyNet(2))
    batch = module.prepare(nets, {"cond": tokens(6, 1)}, stream(0, "p"), pick)
    for phase in module.phases(pick):
        for guidance in (1.0, 2.0):
            values = [
                phase.loss(nets, batch, stream(0, "s"), replace(pick, guidance=guidance, guidance_levels=levels))[0]
                for levels in ("shared", "below")
            ]
            assert torch.equal(*values) == (guidance == 1.0 or phase.name != "student")


def test_guidance_of_its_own_level_pulls_a_matched_student_along_the_prompt() -> None:
    """With the student at the prompt's law matching has nothing to say; shared or not, all that is left is guidance."""
    found = {}
    for levels in ("shared", "below"):
        student = AffineStudent(0.5, 0.8, SIZE)
        nets = world(student=student, fake=GaussianVelocity(0.8, 0.5), teacher=GaussianVelocity([0.2, 0.8], 0.5))
        cfg = replace(WIDE, guidance=2.0, guidance_levels=levels)
        found[levels] = slopes(dmd2.student_loss(nets, given(which=1), stream(0, "s"), cfg)[0], student)["shift"]
    assert found["shared"] < -0.1
    assert found["below"] == pytest.approx(found["shared"], rel=0.35)  # one step: the same levels, drawn apart


def test_the_fake_is_blended_with_the_student_after_its_step() -> None:
    assert all(not phase.blends for phase in dmd2.phases(CONFIG))
    _, student = dmd2.phases(replace(CONFIG, fake_follows=0.02))
    assert student.blends == (Blend(of="student", into="fake", weight=0.02),)
