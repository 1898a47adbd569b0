"""DisBack: what it is without a path, where its targets lie, and the order in which a training takes them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.rng import stream
from stages.distillers import disback, dmd2
from stages.models.space import Points
from stages.training.budget import Budget
from stages.training.loop import Trainer
from stages.training.method import Phase
from stages.training.roles import Start
from tests.training.gaussian import AffineStudent, GaussianVelocity, slopes, tokens, world
from tests.training.tiny import TinyNet

T = 4 / 7
CONFIG = disback.Config(
    method="disback", num_targets=1, degradation=0.0, nfe=1, guidance=1.0, fake_updates=1, t_min=T, t_max=T + 1e-9,
    student_lr=1e-2, fake_lr=1e-2,
)  # fmt: skip
PATH = replace(CONFIG, num_targets=3, degradation=0.3, t_min=0.02, t_max=0.98)
BUDGET = Budget(iterations=20, ema=0.5, clip=1.0, warmup=0, final_lr=1.0, precision="float32", slices=1)


def student_phases(cfg: disback.Config) -> list[Phase]:
    return [phase for phase in disback.phases(cfg) if phase.trains == ("student",)]


def test_without_a_path_it_is_dmd2_without_its_gan_to_the_last_bit() -> None:
    cfg = replace(PATH, num_targets=1, degradation=0.0, nfe=2, guidance=2.0)
    matching = dmd2.Config(
        guidance_levels="shared", fake_follows=0.0, head_lr=1e-4,
        method="dmd2", nfe=2, guidance=2.0, critic_updates=1, gan_weight=0.0, t_min=cfg.t_min, t_max=cfg.t_max,
        student_lr=1e-2, fake_lr=1e-2,
    )  # fmt: skip
    trained = []
    for module, knobs in ((disback, cfg), (dmd2, matching)):
        start = Start(TinyNet(0), TinyNet(1), Points((1, 4, 4), torch.float64))
        nets = world(student=TinyNet(0), fake=TinyNet(2), teacher=TinyNet(1))
        phase = next(phase for phase in module.phases(knobs) if phase.trains == ("student",))
        value, _ = phase.loss(nets, {"cond": tokens(8, 1)}, stream(0, "s"), knobs)
        trained.append([value, *torch.autograd.grad(value, list(nets.nets["student"].parameters()))])
        assert {"student", "fake"} == module.roles(knobs).keys()
        assert start.teacher is not start.init
    assert all(torch.equal(one, other) for one, other in zip(*trained, strict=True))


def test_each_part_has_its_closed_form() -> None:
    """sigma^2 (b - m_k) / V_k, against copies that lie between the teacher and the student's first law."""
    laws = {"copy2": (-0.3, 0.9), "copy1": (0.1, 1.0), "teacher": (0.3, 1.2)}
    student = AffineStudent(0.7, -0.5, 64)
    copies = {name: GaussianVelocity(*law) for name, law in laws.items()}
    nets = world(student=student, fake=GaussianVelocity(-0.5, 0.7), **copies)
    cfg = replace(CONFIG, num_targets=3, degradation=0.3)
    assert [phase.name for phase in student_phases(cfg)] == list(laws)
    for phase in student_phases(cfg):
        value, metrics = phase.loss(nets, {"cond": tokens(128)}, stream(0, "s"), cfg)
        mean, std = laws[phase.name]
        variance = 0.36 * std**2 + 0.64
        found = slopes(value, student)["shift"] * float(metrics["deviation"])
        assert found == pytest.approx(0.64 * (-0.5 - mean) / variance, abs=6e-3)


def test_a_target_that_the_fake_equals_teaches_nothing() -> None:
    same = GaussianVelocity(-0.5, 0.7)
    student = AffineStudent(0.7, -0.5, 8)
    nets = world(student=student, fake=same, copy2=same, copy1=GaussianVelocity(0.1, 1.0), teacher=same)
    first, second, _ = student_phases(PATH)
    assert slopes(first.loss(nets, {"cond": tokens(8)}, stream(0, "s"), PATH)[0], student) == {"shift": 0, "scale": 0}
    assert slopes(second.loss(nets, {"cond": tokens(8)}, stream(0, "s"), PATH)[0], student)["shift"] != 0


def weights(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()]).clone()


def test_a_training_degrades_keeps_copies_and_goes_back_over_them() -> None:
    start = Start(TinyNet(0), TinyNet(1), Points((1, 4, 4), torch.float64))
    made = Trainer(disback, PATH, BUDGET, start, seed=0, device="cpu")
    nets = made.weights.nets
    first, teacher, before, seen = weights(nets["student"]), weights(nets["teacher"]), {}, []
    for iteration in range(BUDGET.iterations):
        metrics = made.step({"cond": tokens(4, 1)})
        seen.append({name.split("/")[0] for name in metrics})
        if iteration < 6:  # .3 of 20
            assert torch.equal(weights(nets["student"]), first)
            before[iteration] = weights(nets["fake"])
    assert not torch.equal(weights(nets["student"]), first)
    assert torch.equal(weights(nets["teacher"]), teacher)
    assert torch.equal(weights(nets["copy1"]), before[1])  # the ends of the first two thirds of 6 iterations
    assert torch.equal(weights(nets["copy2"]), before[3])
    assert [sorted(each) for each in seen] == (
        [["degradation1"]] * 2 + [["degradation2"]] * 2 + [["degradation3"]] * 2
        + [["copy2", "fake"]] * 5 + [["copy1", "fake"]] * 5 + [["fake", "teacher"]] * 4
    )  # fmt: skip
