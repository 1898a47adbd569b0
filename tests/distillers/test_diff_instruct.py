"""Diff-Instruct, SwiftBrush and SNOOPI's first half on Gaussians, where every direction is known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.core.rng import stream
from stages.distillers import diff_instruct
from tests.training.gaussian import AffineStudent, GaussianVelocity, slopes, tokens, world

T = 4 / 7
CONFIG = diff_instruct.Config(
    method="diff_instruct", nfe=1, weighs="data", guides="teacher", guidance=1.0, guidance_range=0.0,
    condition_dropout=0.0, t_min=T, t_max=T + 1e-9, student_lr=1e-4, fake_lr=1e-4,
)  # fmt: skip
WIDE = replace(CONFIG, t_min=0.02, t_max=0.98)
SIZE, COUNT = 64, 128
CLASSES = [0.2, 0.8]
"""Means: of the empty prompt, and of prompt 1."""


def student_slopes(
    student: AffineStudent, fake: GaussianVelocity, cfg: diff_instruct.Config, teacher: GaussianVelocity, which: int = 0
) -> dict[str, float]:
    nets = world(student=student, fake=fake, teacher=teacher)
    return slopes(
        diff_instruct.student_loss(nets, {"cond": tokens(COUNT, which)}, stream(0, "student"), cfg)[0], student
    )


@pytest.mark.parametrize(("weighs", "factor"), [("data", 1.0), ("noise", 0.6 * 0.8)])
def test_one_step_gradient_is_the_closed_form(weighs: str, factor: float) -> None:
    cfg, student = replace(CONFIG, weighs=weighs), AffineStudent(0.7, -0.5, SIZE)
    found = student_slopes(student, GaussianVelocity(-0.5, 0.7), cfg, GaussianVelocity(0.3, 1.2))
    assert found == pytest.approx({"shift": -0.441989 * factor, "scale": -0.162010 * factor}, abs=2e-3)


def test_a_stale_fake_flattens_the_gradient_as_predicted() -> None:
    student = AffineStudent(0.7, -0.5, SIZE)
    found = student_slopes(student, GaussianVelocity(0.1, 0.9), CONFIG, GaussianVelocity(0.3, 1.2))
    assert found == pytest.approx({"shift": -0.029795, "scale": -0.094153}, abs=2e-3)


@pytest.mark.parametrize("guides", ["teacher", "both"])
def test_a_fake_that_equals_the_teacher_moves_the_student_by_the_teachers_guidance_alone(guides: str) -> None:
    cfg, same = replace(WIDE, guides=guides, guidance=4.5), GaussianVelocity(CLASSES, 0.5)
    found = student_slopes(AffineStudent(0.5, 0.8, 4), same, cfg, same, which=1)
    if guides == "both":
        assert found == {"shift": 0, "scale": 0}
    else:
        assert found["shift"] < -0.1


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_guidance_of_the_teacher_moves_the_fixed_point(guidance: float) -> None:
    centre = 0.8 + (guidance - 1) * 0.6
    fake, teacher = GaussianVelocity(centre, 0.5), GaussianVelocity(CLASSES, 0.5)
    found = student_slopes(AffineStudent(0.5, centre, 4), fake, replace(WIDE, guidance=guidance), teacher, which=1)
    assert found == pytest.approx({"shift": 0, "scale": 0}, abs=1e-12)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_guidance_of_both_weighs_what_the_prompt_misses(guidance: float) -> None:
    """A student that is right without prompt and off by delta with it is pulled w times as hard, to the same point."""
    cfg, delta = replace(CONFIG, guides="both", guidance=guidance), 0.3
    fake, teacher = GaussianVelocity([0.2, 0.8 + delta], 0.5), GaussianVelocity(CLASSES, 0.5)
    found = student_slopes(AffineStudent(0.5, 0.8 + delta, SIZE), fake, cfg, teacher, which=1)
    variance = 0.6**2 * 0.25 + 0.8**2
    assert found["shift"] == pytest.approx(guidance * 0.8**2 / variance * delta, rel=1e-6)


def test_a_drawn_guidance_is_the_same_in_both_and_covers_its_range() -> None:
    cfg = replace(CONFIG, guides="both", guidance=0.5, guidance_range=3.5)
    fake, teacher = GaussianVelocity([0.1, 1.0], 0.5), GaussianVelocity(CLASSES, 0.5)
    student, drawn = AffineStudent(0.5, 1.0, 4), []
    for seed in range(40):
        nets, batch = world(student=student, fake=fake, teacher=teacher), {"cond": tokens(4, 1)}
        value, metrics = diff_instruct.student_loss(nets, batch, stream(seed, "s"), cfg)
        drawn.append(float(metrics["guidance"]))
        fixed = replace(cfg, guidance=drawn[-1], guidance_range=0.0)
        again, _ = diff_instruct.student_loss(nets, batch, stream(seed, "s"), fixed)
        assert torch.equal(value, again)
    assert min(drawn) == pytest.approx(0.5, abs=0.4)
    assert max(drawn) == pytest.approx(4.0, abs=0.4)


def test_the_fake_learns_the_samples_and_a_share_of_them_without_prompt() -> None:
    asked = []

    class Watched(GaussianVelocity):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            asked.append(cond[:, 0])
            return super().forward(x, t, cond)

    student = AffineStudent(0.7, -0.5, 8)
    for dropout in (0.0, 0.25):
        nets = world(student=student, fake=Watched(-0.5, 0.7), teacher=GaussianVelocity(0.3, 1.2))
        cfg = replace(WIDE, condition_dropout=dropout)
        value, _ = diff_instruct.fake_loss(nets, {"cond": tokens(4000, 1)}, stream(0, "fake"), cfg)
        assert (asked[-1] == 0).double().mean().item() == pytest.approx(dropout, abs=0.02)
        assert slopes(value, nets.nets["fake"]) == pytest.approx({"mean": 0, "std": 0}, abs=1e-2)  # is optimal
