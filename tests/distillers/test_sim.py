"""Score implicit matching: its gradients on Gaussians, its two limits, and what it is without its networks' inputs."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.core.rng import stream
from stages.distillers import dmd2, sim
from tests.training.gaussian import AffineStudent, GaussianVelocity, slopes, tokens, world
from tests.training.tiny import TinyNet

T = 4 / 7
CONFIG = sim.Config(
    method="sim", distance=sim.Squared(name="squared"), alpha=1.0, nfe=1, guidance=1.0, fake_updates=1,
    t_min=T, t_max=T + 1e-9, student_lr=1e-4, fake_lr=1e-4,
)  # fmt: skip
WIDE = replace(CONFIG, t_min=0.02, t_max=0.98)
SIZE, COUNT = 64, 160
SCORES = (0.8**2 / 0.6) ** 2
"""What the squared gap of scores is divided by where the gap is that of denoisers, at alpha = .6 and sigma = .8."""


def huber(c: float) -> sim.Huber:
    return sim.Huber(name="huber", c=c)


def student_slopes(cfg: sim.Config, student: AffineStudent, fake: GaussianVelocity) -> tuple[dict[str, float], float]:
    nets = world(student=student, fake=fake, teacher=GaussianVelocity(0.3, 1.2))
    value, metrics = sim.student_loss(nets, {"cond": tokens(COUNT)}, stream(0, "student"), cfg)
    return slopes(value, student), float(metrics["deviation"])


def test_one_step_gradient_of_the_squared_distance_is_the_closed_form() -> None:
    found, deviation = student_slopes(CONFIG, AffineStudent(1.0, -0.5, SIZE), GaussianVelocity(-0.5, 1.0))
    found = {name: slope * deviation / SCORES for name, slope in found.items()}
    assert found == pytest.approx({"shift": -0.248619, "scale": -0.098453}, abs=4e-3)


def test_the_pseudo_huber_distance_tends_to_the_square() -> None:
    student, fake, c = AffineStudent(1.0, -0.5, SIZE), GaussianVelocity(-0.5, 1.0), 1e5
    found, _ = student_slopes(replace(CONFIG, distance=huber(c)), student, fake)
    found = {name: slope * c / SCORES for name, slope in found.items()}
    assert found == pytest.approx({"shift": -0.248619, "scale": -0.098453}, abs=4e-3)


def test_a_small_c_leaves_the_direction_alone() -> None:
    sizes = torch.tensor([0.1, 1, 9]).reshape(3, 1, 1, 1)
    gap = sizes * torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=stream(0, "gap"))
    sizes = huber(1e-9).slope(gap, torch.ones(3, 1, 1, 1)).square().mean((1, 2, 3))
    torch.testing.assert_close(sizes, torch.ones(3).double())


@pytest.mark.parametrize("distance", [sim.Squared(name="squared"), huber(0.1)])
@pytest.mark.parametrize("alpha", [1.0, 1.2])
def test_a_student_that_is_its_teacher_stays(distance: sim.Squared | sim.Huber, alpha: float) -> None:
    student = AffineStudent(1.2, 0.3, 4)
    cfg = replace(WIDE, distance=distance, alpha=alpha)
    found, _ = student_slopes(cfg, student, GaussianVelocity(0.3, 1.2))
    assert found == pytest.approx({"shift": 0, "scale": 0}, abs=1e-12)


def test_alpha_holds_the_squared_gap_against_its_estimate() -> None:
    """The loss is linear in alpha; for an optimal fake that of SiM is the mean squared gap, exactly."""
    nets = world(
        student=AffineStudent(0.7, -0.5, SIZE), fake=GaussianVelocity(-0.5, 0.7), teacher=GaussianVelocity(0.3, 1.2)
    )
    of = {
        alpha: sim.student_loss(nets, {"cond": tokens(COUNT)}, stream(0, "s"), replace(CONFIG, alpha=alpha))[0].item()
        for alpha in (0.0, 1.0, 2.0)
    }
    assert of[1.0] - of[0.0] == pytest.approx(of[2.0] - of[1.0], rel=1e-9)
    assert of[0.0] == pytest.approx(-(of[2.0] - of[1.0]), rel=0.05), "E g (D_real - x0hat) = E g^2, fake optimal"
    assert of[1.0] == pytest.approx(0, abs=0.05 * of[0.0])


class Blind(GaussianVelocity):
    """Its denoiser's gradient does not reach the input."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        level = t.reshape(-1, 1, 1, 1)
        data = (x - level * super().forward(x, t, cond)).detach()
        return (x - data) / level


def test_with_blind_networks_it_is_distribution_matching() -> None:
    cfg = replace(WIDE, guidance=1.0)
    matching = dmd2.Config(
        guidance_levels="shared", fake_follows=0.0,
        method="dmd2", nfe=1, guidance=1.0, critic_updates=1, gan_weight=0.0, t_min=cfg.t_min, t_max=cfg.t_max,
        student_lr=1e-4, fake_lr=1e-4, head_lr=1e-4,
    )  # fmt: skip
    student = AffineStudent(0.7, -0.5, 8)
    nets = world(student=student, fake=Blind(-0.4, 0.8), teacher=Blind(0.3, 1.2))
    found = [
        slopes(module.student_loss(nets, {"cond": tokens(COUNT)}, stream(0, "s"), knobs)[0], student)
        for module, knobs in ((sim, cfg), (dmd2, matching))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_the_fakes_weights_learn_nothing_of_the_students_step() -> None:
    nets = world(student=TinyNet(0), fake=TinyNet(1), teacher=TinyNet(2))
    value, _ = sim.student_loss(nets, {"cond": tokens(8, 1)}, stream(0, "s"), replace(WIDE, nfe=2, guidance=1.5))
    value.backward()
    assert all(p.grad is None for p in nets.nets["fake"].parameters())
    assert any(p.grad.abs().sum() > 0 for p in nets.nets["student"].parameters() if p.grad is not None)


def test_the_fake_is_optimal_at_the_students_denoiser() -> None:
    student, found = AffineStudent(0.7, -0.5, SIZE), {}
    for name, fake in {"exact": GaussianVelocity(-0.5, 0.7), "off": GaussianVelocity(-0.4, 0.9)}.items():
        nets = world(student=student, fake=fake)
        found[name] = slopes(sim.fake_loss(nets, {"cond": tokens(COUNT)}, stream(0, "fake"), WIDE)[0], fake)
    assert found["exact"] == pytest.approx({"mean": 0, "std": 0}, abs=6e-3)
    assert min(abs(slope) for slope in found["off"].values()) > 0.03
