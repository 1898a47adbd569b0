"""Simple and fast distillation: states are the sampler's own, goals the teacher's."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.core.rng import stream
from stages.core.spec import even
from stages.distillers import sfd
from stages.samplers import sample
from tests.training.gaussian import GaussianVelocity, slopes, tokens, world

CONFIG = sfd.Config(method="sfd", nfe=3, teacher_steps=4, teacher_rule="heun", guidance=1.0, student_lr=1e-3)
TEACHER = GaussianVelocity(0.7, 0.4)


def prepared(student: torch.nn.Module, cfg: sfd.Config, n: int = 50, which: int = 0) -> dict[str, Tensor]:
    nets = world(student=student, teacher=TEACHER)
    return dict(sfd.prepare(nets, {"cond": tokens(n, which)}, stream(0, "prepare"), cfg))


def test_states_are_the_samplers_and_goals_the_teachers_to_the_last_bit() -> None:
    student = GaussianVelocity(0.5, 0.6)
    made = prepared(student, CONFIG)
    assert made["states"].shape == made["goals"].shape == (50, 3, 1, 1, 1)
    noise = made["states"][:, 0]
    own = sample(lambda x, t: student(x, t, tokens(50)), noise, even(3).times, "euler", keep=(0, 1, 2)).states
    assert torch.equal(made["states"], own.detach().transpose(0, 1))
    fine = sample(lambda x, t: TEACHER(x, t, tokens(50)), noise, even(12).times, "heun", keep=(4, 8, 12)).states
    assert torch.equal(made["goals"], fine.detach().transpose(0, 1))
    assert not made["states"].requires_grad


def test_a_teacher_of_the_same_steps_leaves_nothing_to_learn() -> None:
    cfg = replace(CONFIG, teacher_steps=1, teacher_rule="euler")
    given = prepared(TEACHER, cfg)
    nets = world(student=TEACHER, teacher=TEACHER)
    for step in range(3):
        assert sfd.loss(nets, given, stream(0, "l"), cfg, step=step)[0].item() < 1e-15


def test_each_step_learns_from_its_own_state_alone() -> None:
    student = GaussianVelocity(0.5, 0.6)
    given, nets = prepared(student, CONFIG), world(student=student, teacher=TEACHER)
    value, _ = sfd.loss(nets, given, stream(0, "l"), CONFIG, step=1)
    found = slopes(value, student)
    x, t = given["states"][:, 1], torch.full((50,), 2 / 3, dtype=torch.float64)

    def at(mean: float) -> float:
        end = x - GaussianVelocity(mean, 0.6)(x, t, tokens(50)) / 3
        return (end - given["goals"][:, 1]).abs().mean().item()

    assert value.item() == pytest.approx(at(0.5), rel=1e-6)
    assert found["mean"] == pytest.approx((at(0.5 + 1e-6) - at(0.5 - 1e-6)) / 2e-6, rel=1e-4)


def test_there_is_an_update_for_each_step_in_order() -> None:
    assert [phase.name for phase in sfd.phases(CONFIG)] == ["step0", "step1", "step2"]
    student = GaussianVelocity(0.5, 0.6)
    given, nets = prepared(student, CONFIG), world(student=student, teacher=TEACHER)
    values = {phase.loss(nets, given, stream(0, "l"), CONFIG)[0].item() for phase in sfd.phases(CONFIG)}
    assert len(values) == 3


def test_goals_are_of_the_guided_teacher() -> None:
    nets = world(student=TEACHER, teacher=GaussianVelocity([0.2, 0.7], 0.4))
    cfg = replace(CONFIG, guidance=2.0, teacher_steps=40)
    made = sfd.prepare(nets, {"cond": tokens(50, 1)}, stream(0, "prepare"), cfg)
    torch.testing.assert_close(made["goals"][:, -1], 1.2 + 0.4 * made["states"][:, 0], atol=1e-3, rtol=0)
