"""DMD against the methods that share its halves: Diff-Instruct, DMD2 and the regression of knowledge distillation."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.core.matching import deviation, injected
from stages.core.rng import stream
from stages.distillers import diff_instruct, dmd, dmd2, kd
from tests.training.gaussian import AffineStudent, GaussianVelocity, slopes, tokens, world
from tests.training.tiny import TinyNet

T = 4 / 7
CONFIG = dmd.Config(
    method="dmd", regression_weight=0.0, weighs="data", guidance=1.0, fake_updates=1, t_min=T, t_max=T + 1e-9,
    student_lr=1e-4, fake_lr=1e-4,
)  # fmt: skip
WIDE = replace(CONFIG, t_min=0.02, t_max=0.98)
SIZE, COUNT = 64, 128


def tiny_batch(n: int) -> dict[str, Tensor]:
    noise, x0 = torch.randn(2, n, 1, 4, 4, dtype=torch.float64, generator=stream(0, "pairs"))
    return {"cond": tokens(n, 1), "noise": noise, "x0": x0}


def gradients(module: object, cfg: object, batch: dict[str, Tensor]) -> Tensor:
    nets = world(student=TinyNet(0), fake=TinyNet(1), teacher=TinyNet(2))
    value, _ = module.student_loss(nets, batch, stream(0, "s"), cfg)  # type: ignore[attr-defined]
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(nets.nets["student"].parameters()))])


@pytest.mark.parametrize(("weighs", "factor"), [("data", 1.0), ("alpha", 0.6)])
def test_one_step_gradient_is_the_closed_form(weighs: str, factor: float) -> None:
    student = AffineStudent(0.7, -0.5, SIZE)
    nets = world(student=student, fake=GaussianVelocity(-0.5, 0.7), teacher=GaussianVelocity(0.3, 1.2))
    cfg = replace(CONFIG, weighs=weighs)
    value, metrics = dmd.student_loss(nets, {"cond": tokens(COUNT)}, stream(0, "student"), cfg)
    found = {name: slope * float(metrics["deviation"]) / factor for name, slope in slopes(value, student).items()}
    assert found == pytest.approx({"shift": -0.441989, "scale": -0.162010}, abs=4e-3)
    assert float(metrics["deviation"]) == pytest.approx(0.673548, abs=3e-3)


def test_without_regression_it_is_dmd2_without_its_gan_to_the_last_bit() -> None:
    cfg = replace(WIDE, guidance=2.0)
    theirs = dmd2.Config(
        guidance_levels="shared", fake_follows=0.0, head_lr=1e-4,
        method="dmd2", nfe=1, guidance=2.0, critic_updates=1, gan_weight=0.0, t_min=cfg.t_min, t_max=cfg.t_max,
        student_lr=1e-4, fake_lr=1e-4,
    )  # fmt: skip
    batch = tiny_batch(16)
    assert torch.equal(gradients(dmd, cfg, batch), gradients(dmd2, theirs, batch))


def test_without_regression_it_is_diff_instruct_over_each_samples_deviation() -> None:
    theirs = diff_instruct.Config(
        method="diff_instruct", nfe=1, weighs="data", guides="teacher", guidance=2.0, guidance_range=0.0,
        condition_dropout=0.0, t_min=WIDE.t_min, t_max=WIDE.t_max, student_lr=1e-4, fake_lr=1e-4,
    )  # fmt: skip
    batch = tiny_batch(1)
    nets = world(student=TinyNet(0), fake=TinyNet(1), teacher=TinyNet(2))
    cfg = replace(WIDE, guidance=2.0)
    scale = float(dmd.student_loss(nets, batch, stream(0, "s"), cfg)[1]["deviation"])
    torch.testing.assert_close(gradients(dmd, cfg, batch) * scale, gradients(diff_instruct, theirs, batch))


def test_the_regression_is_knowledge_distillations() -> None:
    batch, cfg = tiny_batch(16), replace(WIDE, regression_weight=0.25)
    student = TinyNet(0)
    alone, _ = kd.loss(world(student=student), batch, stream(0, "kd"), kd.Config(method="kd", student_lr=1e-4))
    pull = torch.cat([g.flatten() for g in torch.autograd.grad(alone, list(student.parameters()))])
    both, matching = gradients(dmd, cfg, batch), gradients(dmd, replace(cfg, regression_weight=0.0), batch)
    torch.testing.assert_close(both - matching, 2 * 0.25 * pull)  # kd's has a half


def test_the_direction_does_not_depend_on_the_datas_unit() -> None:
    x0hat, real, fake = torch.randn(3, 5, 1, 4, 4, dtype=torch.float64, generator=stream(0, "x"))
    steps = []
    for unit in (1.0, 7.0):
        x = (unit * x0hat).requires_grad_(True)
        value = injected(x, unit * (fake - real) / deviation(x, unit * real))
        steps.append(torch.autograd.grad(value, x)[0])
    torch.testing.assert_close(*steps)


def test_pairs_are_needed_where_they_are_regressed() -> None:
    assert dmd.needs(CONFIG) == "prompts"
    assert dmd.needs(replace(CONFIG, regression_weight=0.25)) == "pairs"
