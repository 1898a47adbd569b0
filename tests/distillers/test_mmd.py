"""MMD fine-tuning: the estimate, what its kernels see, and the chain that the gradient runs through."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.discrepancy import Kernel, gaussian, mmd2, polynomial
from stages.core.rng import stream
from stages.distillers import mmd
from tests.training.gaussian import GaussianVelocity, ShiftedVelocity, tokens, world

CONFIG = mmd.Config(
    method="mmd", nfe=1, kernel=mmd.Polynomial(name="polynomial", degree=1), t_min=0.3, t_max=0.3 + 1e-9,
    student_lr=1e-4,
)  # fmt: skip
CUBIC = mmd.Polynomial(name="polynomial", degree=3)
MEAN, STD = 0.3, 1.2


class Signs(GaussianVelocity):
    """Two features that survive a normalisation: which of them is larger tells where the pixel lies."""

    def features(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return torch.stack([x.flatten(1), -x.flatten(1)], dim=2)


def batch(n: int, shift: float = 0.0) -> dict[str, Tensor]:
    x0 = MEAN + shift + STD * torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=stream(0, "x0"))
    return {"x0": x0, "cond": tokens(n)}


@pytest.mark.parametrize("kernel", [polynomial(3), gaussian(0.7)])
def test_the_estimate_is_the_double_sum_without_the_diagonals(kernel: Kernel) -> None:
    x, y = torch.randn(9, 3, dtype=torch.float64, generator=stream(0, "rows")).split([5, 4])
    pairs = kernel(x, x), kernel(y, y), kernel(x, y)
    within = [sum(k[i, j] for i in range(len(k)) for j in range(len(k)) if i != j) for k in pairs[:2]]
    expected = within[0] / 20 + within[1] / 12 - 2 * pairs[2].sum() / 20
    torch.testing.assert_close(mmd2(x, y, kernel), expected)


def test_it_is_zero_on_average_where_laws_agree_and_not_where_they_do_not() -> None:
    rng = stream(0, "mmd")
    found = torch.stack([mmd2(*torch.randn(2, 40, 3, generator=rng).double(), polynomial(3)) for _ in range(300)])
    assert abs(found.mean()) < 3 * found.std() / 300**0.5
    assert (found < 0).any()
    x, y = torch.randn(2, 400, 3, generator=rng).double()
    assert mmd2(x, y + 0.5, polynomial(3)) > 5 * found.std()


def test_a_kernel_of_degree_one_sees_means_alone() -> None:
    """Its value is |mean x - mean y|^2 / F up to the diagonals, so that spreads have no gradient."""
    rng = stream(0, "linear")
    x, y = torch.randn(2, 2000, 3, dtype=torch.float64, generator=rng)
    x = (x - x.mean(0)).requires_grad_(True)
    spread = torch.ones((), dtype=torch.float64, requires_grad=True)
    value = mmd2(spread * x, y + 0.4, polynomial(1))
    assert value.item() == pytest.approx(((y + 0.4).mean(0)).square().sum().item() / 3, abs=5e-3)
    (slope,) = torch.autograd.grad(value, spread)
    assert abs(slope.item()) < 5e-3
    (cubic,) = torch.autograd.grad(mmd2(2 * spread * x, y, polynomial(3)), spread)
    assert cubic.item() > 0.5


@pytest.mark.parametrize(
    "kernel", [mmd.Polynomial(name="polynomial", degree=3), mmd.Gaussian(name="gaussian", width=1)]
)
@pytest.mark.parametrize("shift", [-0.5, 0.5])
def test_the_student_is_pulled_towards_data(kernel: mmd.Polynomial | mmd.Gaussian, shift: float) -> None:
    student = ShiftedVelocity(GaussianVelocity(MEAN, STD))
    nets = world(student=student, teacher=Signs(MEAN, STD))
    value, metrics = mmd.loss(nets, batch(600, shift), stream(0, "s"), replace(CONFIG, kernel=kernel, nfe=2))
    (slope,) = torch.autograd.grad(value, student.shift)
    assert (slope.item() > 0) == (shift > 0)  # v rises: samples fall
    assert float(metrics["mean_gap"]) > 0.1


def test_the_gradient_runs_through_every_step() -> None:
    class Counted(GaussianVelocity):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            calls.append((t[0].item(), x.requires_grad))
            return super().forward(x, t, cond)

    calls: list[tuple[float, bool]] = []
    out = mmd.drawn(world(student=Counted(MEAN, STD)), tokens(3), stream(0, "d"), 3)
    assert calls == [(1.0, False), (pytest.approx(2 / 3), True), (pytest.approx(1 / 3), True)]
    assert out.requires_grad
    # d x0hat / d shift of K Euler steps of a shifted exact field, against finite differences
    student: nn.Module = ShiftedVelocity(GaussianVelocity(MEAN, STD))
    nets = world(student=student)
    (slope,) = torch.autograd.grad(mmd.drawn(nets, tokens(1), stream(0, "d"), 3).sum(), student.shift)
    ends = []
    for change in (1e-5, -1e-5):
        with torch.no_grad():
            student.shift.fill_(change)
            ends.append(mmd.drawn(nets, tokens(1), stream(0, "d"), 3).sum())
    assert slope.item() == pytest.approx((ends[0] - ends[1]).item() / 2e-5, rel=1e-6)


def test_samples_and_data_are_seen_at_one_level() -> None:
    levels = []

    class Watched(Signs):
        def features(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            levels.append(t)
            return super().features(x, t, cond)

    nets = world(student=GaussianVelocity(MEAN, STD), teacher=Watched(MEAN, STD))
    mmd.loss(nets, batch(4), stream(0, "s"), replace(CONFIG, t_min=0.1, t_max=0.9))
    made, real = levels
    assert torch.equal(made, real)
    assert len(set(made.tolist())) == 1
