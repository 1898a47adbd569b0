"""f-distill: its weights are what the divergences say, its reverse KL is DMD2, its gradients are the closed forms."""

import math
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from stages.core.rng import stream
from stages.distillers import dmd2, f_distill
from tests.training.gaussian import AffineStudent, GaussianVelocity, LogRatio, Pixels, slopes, tokens, world
from tests.training.tiny import TinyHead, TinyNet

CONFIG = f_distill.Config(
    method="f_distill", divergence="reverse_kl", ratio_bins=1, nfe=1, guidance=1.0, critic_updates=5, gan_weight=0.1,
    t_min=0.02, t_max=0.98, student_lr=1e-4, fake_lr=1e-4, head_lr=1e-4,
)  # fmt: skip
DEFINITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "reverse_kl": lambda r: -r.log(),
    "softened_reverse_kl": lambda r: (r + 1) * (0.5 + 0.5 / r).log(),
    "jensen_shannon": lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log(),
    "squared_hellinger": lambda r: 1 - r.sqrt(),
    "forward_kl": lambda r: r * r.log(),
    "jeffreys": lambda r: (r - 1) * r.log(),
    "neyman": lambda r: (1 - r) ** 2 / r,
}
# Data N(.3, 1.2^2), samples N(-.5, a^2), at alpha = .6 and sigma = .8: on the flow path both are 1.4 times smaller.
MEAN, STD, SHIFT, ALPHA, SIGMA = 0.3, 1.2, -0.5, 0.6, 0.8
T = SIGMA / (ALPHA + SIGMA)


def nodes(scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A grid of z and eps with the weights of its points; x_t and the ratio of densities there."""
    z = torch.linspace(-8, 8, 401, dtype=torch.float64)
    density = (-z.square() / 2).exp()
    density = density / density.sum()
    x = ALPHA * (scale * z[:, None] + SHIFT) + SIGMA * z[None, :]
    of_real, of_made = ((ALPHA * s) ** 2 + SIGMA**2 for s in (STD, scale))
    log_real = -((x - ALPHA * MEAN) ** 2) / (2 * of_real) - 0.5 * math.log(of_real)
    log_made = -((x - ALPHA * SHIFT) ** 2) / (2 * of_made) - 0.5 * math.log(of_made)
    return z[:, None], x, density[:, None] * density[None, :], (log_real - log_made).exp()


def gradient(name: str, scale: float) -> dict[str, float]:
    """What the student's shift and scale get, exactly, with weight h and no normaliser."""
    z, x, weight, r = nodes(scale)
    real, made = ((ALPHA * s) ** 2 + SIGMA**2 for s in (STD, scale))
    d_real = MEAN + ALPHA * STD**2 / real * (x - ALPHA * MEAN)
    d_fake = SHIFT + ALPHA * scale**2 / made * (x - ALPHA * SHIFT)
    pull = weight * f_distill.DIVERGENCES[name](r) * (d_fake - d_real)
    return {"shift": pull.sum().item(), "scale": (pull * z).sum().item()}


@pytest.mark.parametrize("name", f_distill.DIVERGENCES)
def test_a_weight_is_the_divergences_second_derivative_times_the_squared_ratio(name: str) -> None:
    r = torch.tensor([0.11, 0.7, 1.0, 2.3, 19.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(DEFINITIONS[name](r).sum(), r, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), r)
    torch.testing.assert_close(f_distill.DIVERGENCES[name](r.detach()), curve * r.detach().square())
    assert DEFINITIONS[name](torch.ones(())).item() == pytest.approx(0)


@pytest.mark.parametrize(
    ("name", "scale", "shift", "widening"),
    [
        ("reverse_kl", 0.7, -0.441989, -0.162010),
        ("reverse_kl", 1.2, -0.441989, 0.0),
        ("forward_kl", 1.2, -0.441989, -0.131864),
        ("forward_kl", 1.0, -0.512000, -0.248832),
        ("jeffreys", 1.2, -0.883978, -0.131864),
        ("squared_hellinger", 1.2, -0.107784, None),
        ("jensen_shannon", 1.2, -0.441989 * 0.476283, None),
        ("softened_reverse_kl", 1.2, -0.441989 * 0.523717, None),
    ],
)
def test_gradients_are_the_closed_forms(name: str, scale: float, shift: float, widening: float | None) -> None:
    found = gradient(name, scale)
    assert found["shift"] == pytest.approx(shift, abs=2e-6)
    if widening is not None:
        assert found["scale"] == pytest.approx(widening, abs=2e-6)


class FirstPixel(AffineStudent):
    """Only its first pixel, the one that the head sees, learns."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        v = super().forward(x, t, cond)
        first = torch.zeros_like(v).flatten(1)
        first[:, 0] = 1
        first = first.reshape(v.shape)
        return first * v + (1 - first) * v.detach()


def test_the_loss_weighs_each_sample_by_its_ratio() -> None:
    """Forward KL where the spreads differ, which a weight that depends on nothing, or on 1 / r, would miss."""
    size, scale, n = 8, 1.0, 20_000
    cfg = replace(CONFIG, divergence="forward_kl", t_min=T, t_max=T + 1e-9, gan_weight=1e-12)
    student = FirstPixel(scale, SHIFT, size)
    nets = world(
        student=student,
        fake=GaussianVelocity(SHIFT, scale),
        teacher=Pixels(MEAN, STD),
        head=LogRatio((MEAN, STD), (SHIFT, scale)),
    )
    value, metrics = f_distill.student_loss(nets, {"cond": tokens(n)}, stream(0, "student"), cfg)
    factor = size**2 * float(metrics["deviation"])
    found = {name: slope * factor for name, slope in slopes(value, student).items()}
    assert found == pytest.approx({"shift": -0.512000, "scale": -0.248832}, abs=0.02)


def everything(module: object, cfg: object) -> list[Tensor]:
    nets = world(student=TinyNet(0), fake=TinyNet(1), teacher=TinyNet(2), head=TinyHead(3))
    batch = {"cond": tokens(24, 1), "x0": torch.ones(24, 1, 4, 4).double()}
    found = []
    for phase in module.phases(cfg):  # type: ignore[attr-defined]
        value, _ = phase.loss(nets, batch, stream(0, phase.name), cfg)
        learnt = [p for role in phase.trains for p in nets.nets[role].parameters()]
        found += [value, *torch.autograd.grad(value, learnt)]
    return found


@pytest.mark.parametrize("nfe", [1, 3])
def test_reverse_kl_is_dmd2_to_the_last_bit(nfe: int) -> None:
    cfg = replace(CONFIG, nfe=nfe, guidance=1.5, ratio_bins=10)
    shared = {f.name: getattr(cfg, f.name) for f in fields(cfg) if f.name in dmd2.Config.__dataclass_fields__}
    theirs = everything(
        dmd2, dmd2.Config(**{**shared, "method": "dmd2", "guidance_levels": "shared", "fake_follows": 0.0})
    )
    assert all(torch.equal(ours, other) for ours, other in zip(everything(f_distill, cfg), theirs, strict=True))
    other = everything(f_distill, replace(cfg, divergence="jeffreys"))
    assert not torch.equal(other[-1], theirs[-1])


@pytest.mark.parametrize("name", f_distill.DIVERGENCES)
def test_where_all_ratios_are_equal_every_divergence_is_dmd2(name: str) -> None:
    t = torch.linspace(0.02, 0.98, 50, dtype=torch.float64)
    cfg = replace(CONFIG, divergence=name, ratio_bins=10)
    torch.testing.assert_close(f_distill.weights(torch.full_like(t, 1.7), t, cfg), torch.ones_like(t))
    # and where they are equal within each range of levels, which is what ranges are for
    of_level = (10 * (t - 0.02) / 0.96).long().clamp(0, 9).double() / 5
    torch.testing.assert_close(f_distill.weights(of_level, t, cfg), torch.ones_like(t))


def test_ratios_that_no_head_can_know_are_cut() -> None:
    cfg = replace(CONFIG, divergence="forward_kl")
    found = f_distill.weights(torch.tensor([-50.0, 0.0, 50.0]), torch.full((3,), 0.5), cfg)
    torch.testing.assert_close(found, torch.tensor([0.1, 1.0, 20.0]) / (21.1 / 3))
