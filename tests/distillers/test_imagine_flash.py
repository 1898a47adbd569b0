"""Backward distillation on Gaussians: what the teacher makes of the student's own states is known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.core.path import data_from_velocity
from stages.core.rng import stream
from stages.core.spec import even
from stages.distillers import imagine_flash
from stages.distillers.imagine_flash import Same, Shifted
from stages.samplers import sample
from stages.samplers.rollout import crossed
from tests.training.gaussian import AffineStudent, GaussianVelocity, slopes, tokens, world

SAME, SHIFTED = Same(name="same"), Shifted(name="shifted", high=0.8, low=0.2)
CONFIG = imagine_flash.Config(method="imagine_flash", nfe=3, goal=SAME, teacher_steps=8, guidance=1.0, student_lr=1e-3)
TEACHER = GaussianVelocity(0.7, 0.4)


def prepared(student: torch.nn.Module, cfg: imagine_flash.Config, n: int = 60, which: int = 0) -> dict[str, Tensor]:
    nets = world(student=student, teacher=TEACHER)
    return dict(imagine_flash.prepare(nets, {"cond": tokens(n, which)}, stream(0, "prepare"), cfg))


def test_states_are_the_samplers_to_the_last_bit() -> None:
    student = GaussianVelocity(0.5, 0.6)
    made = prepared(student, CONFIG)["states"]
    own = sample(lambda x, t: student(x, t, tokens(60)), made[:, 0], even(3).times, "euler", keep=(0, 1, 2)).states
    assert torch.equal(made, own.detach().transpose(0, 1))


def test_the_noise_of_the_first_step_is_the_noise_that_was_drawn() -> None:
    student = GaussianVelocity(0.5, 0.6)
    states = prepared(student, CONFIG)["states"].detach()
    noise, r = states[:, 0], 2 / 3
    one = torch.ones(60, dtype=torch.float64)
    data = data_from_velocity(noise, student(noise, one, tokens(60)), one)
    torch.testing.assert_close(states[:, 1], (1 - r) * data + r * noise)


def test_more_steps_of_the_teacher_tend_to_its_sample_and_one_is_its_mean() -> None:
    x, t = torch.full((1, 1, 1, 1), 0.9, dtype=torch.float64), torch.full((1,), 0.6, dtype=torch.float64)
    for num, expected, within in ((1, 0.802905, 1e-6), (2000, 1.099377, 1e-3)):
        assert crossed(TEACHER, x, t, 0 * t, tokens(1), num_steps=num).item() == pytest.approx(expected, abs=within)


def test_an_exact_one_step_student_is_a_fixed_point_of_many_steps_and_not_of_one() -> None:
    exact = AffineStudent(0.4, 0.7)
    cfg = replace(CONFIG, nfe=1, teacher_steps=500)
    nets, given = world(student=exact, teacher=TEACHER), prepared(exact, cfg)
    assert imagine_flash.loss(nets, given, stream(0, "l"), cfg)[1]["rms_gap"] < 2e-3
    single = replace(cfg, teacher_steps=1)
    error = imagine_flash.loss(nets, given, stream(0, "l"), single)[0].item()
    assert error == pytest.approx((0.4 * given["states"]).square().mean().item()), "the mean is .7 for every noise"


def test_a_shifted_goal_starts_from_the_students_sample_at_its_level() -> None:
    # A student that answers m: x_gamma = (1 - gamma) m + gamma eps, and the teacher's mean of it is known.
    student = AffineStudent(0.0, 0.7)
    cfg = replace(CONFIG, nfe=1, goal=SHIFTED, teacher_steps=1)
    nets, given = world(student=student, teacher=TEACHER), prepared(student, cfg, 200_000)
    error = imagine_flash.loss(nets, given, stream(0, "l"), cfg)[0].item()
    level = 0.8
    slope = (1 - level) * 0.16 / ((1 - level) ** 2 * 0.16 + level**2)
    assert error == pytest.approx((slope * level) ** 2, rel=0.02)
    low = replace(cfg, goal=replace(SHIFTED, high=0.0, low=0.0))
    assert imagine_flash.loss(nets, given, stream(0, "l"), low)[0].item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("goal", [SAME, SHIFTED])
def test_the_goal_carries_no_gradient(goal: Same | Shifted) -> None:
    student, cfg = AffineStudent(0.3, 0.2), replace(CONFIG, nfe=1, goal=goal)
    given = prepared(student, cfg)
    found = slopes(imagine_flash.loss(world(student=student, teacher=TEACHER), given, stream(0, "l"), cfg)[0], student)
    noise = given["states"][:, 0]
    ours = 0.3 * noise + 0.2
    seen: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imagine_flash, "crossed", lambda *a, **k: seen.append(crossed(*a, **k)) or seen[-1])
        imagine_flash.loss(world(student=student, teacher=TEACHER), given, stream(0, "l"), cfg)
    assert found["shift"] == pytest.approx(2 * (ours - seen[0]).mean().item())
    assert found["scale"] == pytest.approx(2 * ((ours - seen[0]) * noise).mean().item())


def test_every_call_is_drawn_and_the_teacher_is_guided() -> None:
    nets = world(student=GaussianVelocity(1.2, 0.4), teacher=GaussianVelocity([0.2, 0.7], 0.4))
    cfg = replace(CONFIG, guidance=2.0, teacher_steps=1)
    given = imagine_flash.prepare(nets, {"cond": tokens(60, 1)}, stream(0, "prepare"), cfg)
    assert imagine_flash.loss(nets, given, stream(0, "l"), cfg)[0].item() < 1e-20
    times: list[Tensor] = []

    class Watched(GaussianVelocity):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            times.append(t)
            return super().forward(x, t, cond)

    imagine_flash.loss(world(student=Watched(0.7, 0.4), teacher=TEACHER), given, stream(0, "l"), CONFIG)
    assert {round(t, 3) for t in times[0].tolist()} == {1.0, 0.667, 0.333}
