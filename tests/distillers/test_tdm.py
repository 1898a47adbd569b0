"""Trajectory distribution matching against Gaussians, where both denoisers and every slope are known."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.core.config import check
from stages.core.path import expand, transition_residual
from stages.core.rng import stream
from stages.distillers import tdm
from stages.training import jumps
from tests.training.gaussian import AffineStudent, GaussianVelocity, slopes, tokens, world

T = 4 / 7  # alpha = .6 and sigma = .8 up to a common factor, which no denoiser sees
CONFIG = tdm.Config(
    guidance_levels="shared",
    method="tdm", nfe=1, guidance=1.0, interval="own", t_min=T, t_max=T + 1e-9, fake_target="sample",
    huber_c=1e4, student_lr=1e-4, fake_lr=1e-4, betas=(0.0, 0.95),
)  # fmt: skip
WIDE = replace(CONFIG, t_min=0.02, t_max=0.99)
SIZE, COUNT = 64, 128
DEVIATION = 0.673548


def batch(cfg: tdm.Config, student: torch.nn.Module, which: int = 0) -> dict[str, Tensor]:
    given = {"cond": tokens(COUNT, which)}
    return dict(tdm.prepare(world(student=student), given, stream(0, "prepare"), cfg))


def student_slopes(fake: GaussianVelocity, *, scale: float = 0.7) -> dict[str, float]:
    """The student's gradient in units of D_real - D_fake: times c, and times the deviation."""
    student = AffineStudent(scale, -0.5, SIZE)
    nets = world(student=student, fake=fake, teacher=GaussianVelocity(0.3, 1.2))
    value, metrics = tdm.student_loss(nets, batch(CONFIG, student), stream(0, "student"), CONFIG)
    factor = CONFIG.huber_c * float(metrics["deviation"])
    return {name: slope * factor for name, slope in slopes(value, student).items()}


def test_one_step_gradient_is_the_closed_form() -> None:
    found = student_slopes(GaussianVelocity(-0.5, 0.7))
    assert found == pytest.approx({"shift": -0.441989, "scale": -0.162010}, abs=4e-3)


def test_a_stale_fake_flattens_the_gradient_as_predicted() -> None:
    found = student_slopes(GaussianVelocity(0.1, 0.9))
    assert found == pytest.approx({"shift": -0.029795, "scale": -0.094153}, abs=4e-3)


def test_a_student_with_the_right_spread_is_only_shifted() -> None:
    found = student_slopes(GaussianVelocity(-0.5, 1.2), scale=1.2)
    assert found == pytest.approx({"shift": -0.441989, "scale": 0}, abs=4e-3)


def test_the_normaliser_is_the_folded_normals_mean() -> None:
    student = AffineStudent(0.7, -0.5, SIZE)
    nets = world(student=student, fake=GaussianVelocity(-0.5, 0.7), teacher=GaussianVelocity(0.3, 1.2))
    _, metrics = tdm.student_loss(nets, batch(CONFIG, student), stream(0, "student"), CONFIG)
    assert float(metrics["deviation"]) == pytest.approx(DEVIATION, abs=3e-3)


def test_a_fake_that_equals_the_teacher_teaches_nothing() -> None:
    student, same = AffineStudent(0.7, -0.5, SIZE), GaussianVelocity(0.3, 1.2)
    nets = world(student=student, fake=same, teacher=same)
    value, _ = tdm.student_loss(nets, batch(WIDE, student), stream(0, "student"), WIDE)
    assert slopes(value, student) == pytest.approx({"scale": 0, "shift": 0}, abs=1e-15)


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.5])
def test_guidance_moves_the_fixed_point_by_scale_minus_one(scale: float) -> None:
    # prompt 1 is N(.8, .5^2), the empty prompt 0 is N(.2, .5^2): stationary at .8 + (w - 1)(.8 - .2)
    cfg = replace(WIDE, guidance=scale)
    centre = 0.8 + (scale - 1) * 0.6
    student = AffineStudent(0.5, centre, 4)
    nets = world(student=student, fake=GaussianVelocity(centre, 0.5), teacher=GaussianVelocity([0.2, 0.8], 0.5))
    value, metrics = tdm.student_loss(nets, batch(cfg, student, 1), stream(0, "student"), cfg)
    assert float(metrics["gap"]) == pytest.approx(0, abs=1e-12)
    assert slopes(value, student) == pytest.approx({"scale": 0, "shift": 0}, abs=1e-12)


@pytest.mark.parametrize("target", ["sample", "exact"])
def test_one_step_fake_is_optimal_at_the_students_denoiser(target: str) -> None:
    cfg, student = replace(WIDE, fake_target=target), AffineStudent(0.7, -0.5, SIZE)
    values = {}
    for name, fake in {"exact": GaussianVelocity(-0.5, 0.7), "off": GaussianVelocity(-0.4, 0.9)}.items():
        value, _ = tdm.fake_loss(world(student=student, fake=fake), batch(cfg, student), stream(0, "fake"), cfg)
        values[name] = slopes(value, fake)
    assert values["exact"] == pytest.approx({"mean": 0, "std": 0}, abs=5e-3)
    assert min(abs(slope) for slope in values["off"].values()) > 0.03


def test_one_step_targets_agree() -> None:
    student, fake = AffineStudent(0.7, -0.5, SIZE), GaussianVelocity(0.1, 0.9)
    found = []
    for target in ("sample", "exact"):
        cfg = replace(WIDE, fake_target=target)
        nets = world(student=student, fake=fake)
        found.append(tdm.fake_loss(nets, batch(cfg, student), stream(0, "fake"), cfg)[0].item())
    assert found[0] == pytest.approx(found[1], rel=1e-12)


# Several steps. Test point: VP angles 1.3 (t_k), .9 (m), 1.1 (tau); on the flow path t = sin / (sin + cos).


def flow_time(angle: float) -> float:
    return math.sin(angle) / (math.sin(angle) + math.cos(angle))


def jump(n: int = 400_000) -> tuple[jumps.Jump, Tensor]:
    """Jumps of a student that is the exact velocity of N(.3, 1.2^2), from its exact marginal at t_k."""
    net, (z, eps) = (
        GaussianVelocity(0.3, 1.2),
        torch.randn(2, n, 1, 1, 1, dtype=torch.float64, generator=stream(0, "z")),
    )
    t_k, m, tau = (torch.full((n,), flow_time(angle), dtype=torch.float64) for angle in (1.3, 0.9, 1.1))
    spread = ((1 - t_k[0]) ** 2 * 1.44 + t_k[0] ** 2).sqrt()
    x_k = (1 - t_k[0]) * 0.3 + spread * z
    return jumps.Jump(x_k=x_k, t_k=t_k, m=m, tau=tau, eps=eps), net(x_k, t_k, tokens(n)).detach()


def slope(y: Tensor, x: Tensor) -> float:
    return ((y - y.mean()) * (x - x.mean())).mean().item() / x.var(correction=0).item()


def test_fake_targets_have_the_predicted_slopes() -> None:
    here, v = jump()
    to, tau = jumps.land(here, v), flow_time(1.1)
    scale = math.sin(1.1) + math.cos(1.1)  # x_tau on the VP path is this times ours
    assert slope(to.x0hat, to.x_tau) / scale == pytest.approx(0.27692, abs=2e-3)
    # the exact target, a velocity, recovered from the weighted residual of a zero fake
    weighted = transition_residual(torch.zeros_like(v), to.x_m, here.m, here.tau, here.eps)
    v_star = -weighted * tau / to.beta
    assert slope(to.x_tau - tau * v_star, to.x_tau) / scale == pytest.approx(0.41403, abs=4e-3)


def test_exact_target_is_the_marginal_denoiser() -> None:
    here, v = jump()
    to, tau = jumps.land(here, v), flow_time(1.1)
    variance = to.x_tau.var(correction=0).item()
    expected = (variance - tau**2) / ((1 - tau) * variance)
    v_star = -transition_residual(torch.zeros_like(v), to.x_m, here.m, here.tau, here.eps) * tau / to.beta
    assert slope(to.x_tau - tau * v_star, to.x_tau) == pytest.approx(expected, abs=5e-3)


def test_state_moves_by_the_known_share_of_the_sample() -> None:
    # d x_m / d x0hat = (t_k - m) / t_k, .404146 on the VP path where x_m is cos + sin times ours
    here, v = jump(4)
    ahead, behind = jumps.land(here, v + 0.5), jumps.land(here, v)
    rho = (ahead.x_m - behind.x_m) / (ahead.x0hat - behind.x0hat)
    assert rho.mean().item() * (math.sin(0.9) + math.cos(0.9)) == pytest.approx(0.404146, abs=1e-6)


def test_transition_keeps_the_noise_at_its_level() -> None:
    # x0hat = 0 and independent unit noise at m: the variance at tau is tau^2
    n = 400_000
    noise, eps = torch.randn(2, n, 1, 1, 1, dtype=torch.float64, generator=stream(0, "z"))
    t_k, m, tau = (torch.full((n,), level, dtype=torch.float64) for level in (0.9, 0.5, 0.7))
    here = jumps.Jump(x_k=0.9 * noise, t_k=t_k, m=m, tau=tau, eps=eps)
    to = jumps.land(here, noise)
    assert to.x0hat.abs().max() < 1e-12
    assert to.x_tau.var().item() == pytest.approx(0.49, abs=3e-3)


def test_importance_is_one_at_clean_samples_and_the_density_ratio_elsewhere() -> None:
    here, v = jump(6)
    clean = replace(here, m=torch.zeros_like(here.m))
    torch.testing.assert_close(jumps.importance(clean, v, jumps.land(clean, v)), torch.ones(6).double())
    to, tau = jumps.land(here, v), expand(here.tau, v)
    given_sample = -0.5 * ((to.x_tau - (1 - tau) * to.x0hat) / tau).square()
    given_state = -0.5 * ((to.x_tau - to.a * to.x_m) / to.beta).square()
    torch.testing.assert_close(jumps.importance(here, v, to), (given_sample - given_state).exp().flatten())


@pytest.mark.parametrize("interval", ["own", "shared"])
def test_levels_lie_where_they_belong(interval: str) -> None:
    cfg = replace(WIDE, nfe=4, interval=interval)
    states = torch.arange(4.0).double().repeat(4000, 1).reshape(4000, 4, 1, 1, 1)
    here = jumps.draw_jump(states, stream(0, "jump"), cfg)
    index = here.x_k.flatten()
    torch.testing.assert_close(here.t_k, 1 - index / 4)
    torch.testing.assert_close(here.m, 1 - (index + 1) / 4)
    assert (here.tau >= here.m.clamp_min(0.02)).all()
    assert (here.tau < 0.99).all()
    inside = (here.tau <= here.t_k).all()
    assert inside if interval == "own" else not inside
    assert torch.bincount(index.long()).min() > 850  # every jump is drawn, equally


def test_roll_out_is_eulers() -> None:
    cfg, net = replace(WIDE, nfe=2), GaussianVelocity(0.7, 0.4, 4)
    states = batch(cfg, net)["states"]
    assert states.shape == (COUNT, 2, 1, 4, 4)
    expected = states[:, 0] - 0.5 * (states[:, 0] - 0.7)  # v(x, 1) = x - mean
    torch.testing.assert_close(states[:, 1], expected.detach())


def test_several_steps_have_no_gradient_but_through_the_last_call() -> None:
    cfg, net = replace(WIDE, nfe=3), GaussianVelocity(0.7, 0.4, 4)
    assert not batch(cfg, net)["states"].requires_grad


def test_an_empty_interval_is_refused() -> None:
    section = {name: getattr(WIDE, name) for name in WIDE.__dataclass_fields__}
    with pytest.raises(ValueError, match=r"no tau lies in .* of 4 jumps; lower t_min or raise t_max"):
        check(tdm.Config, {**section, "nfe": 4, "t_min": 0.3}, "distill.arms.tdm4")
