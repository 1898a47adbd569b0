"""SFT-PG: its expected gradient is that of the cost, whatever the value; the critic's loss is a distance."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.config import check
from stages.core.path import expand
from stages.core.rng import stream
from stages.core.types import World
from stages.distillers import sft_pg
from stages.samplers.cps import CPS
from tests.training.gaussian import GaussianVelocity, Pixels, tokens, world

CONFIG = sft_pg.Config(
    method="sft_pg", nfe=2, kernel=CPS(name="cps", noise_level=0.6), critic_updates=1, student_lr=1e-4, critic_lr=1e-4,
    value_lr=1e-4,
)  # fmt: skip
MEAN, STD = 0.3, 1.2


class First(nn.Module):
    """An exact field with a learnable constant at t = 1 alone: on the step that has noise."""

    def __init__(self) -> None:
        super().__init__()
        self.base = GaussianVelocity(MEAN, STD).requires_grad_(False)
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.sample_shape = (1, 1, 1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.base(x, t, cond) + self.shift * expand((t == 1).to(x), x)


class Pixel(nn.Module):
    """A head: `slope` times the first pixel, plus `bias`."""

    def __init__(self, slope: float, bias: float = 0.0) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        return self.slope * features[:, 0, 0] + self.bias


def rig(student: nn.Module, *, critic: Pixel, value: Pixel) -> World:
    return world(student=student, teacher=Pixels(MEAN, STD), critic=critic, value=value)


def batch(nets: World, n: int, cfg: sft_pg.Config = CONFIG) -> dict[str, Tensor]:
    x0 = MEAN + STD * torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=stream(0, "x0"))
    with torch.no_grad():
        return dict(sft_pg.prepare(nets, {"x0": x0, "cond": tokens(n)}, stream(0, "prepare"), cfg))


@pytest.mark.parametrize("value", [Pixel(0.0), Pixel(0.4, 0.3)])
def test_the_expected_gradient_is_that_of_the_cost_for_any_value(value: Pixel) -> None:
    n, student, critic = 400_000, First(), Pixel(0.7, 0.2)
    nets = rig(student, critic=critic, value=value)
    loss, _ = sft_pg.student_loss(nets, batch(nets, n), stream(0, "student"), CONFIG)
    (found,) = torch.autograd.grad(loss, student.shift)
    # the same by reparameterisation: through the noisy step and the map that follows it
    times = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    z, eps = torch.randn(2, n, 1, 1, 1, dtype=torch.float64, generator=stream(1, "again"))
    step = CONFIG.kernel.transition(times, torch.zeros(n, dtype=torch.int64))
    x = step.mean(z, student(z, torch.ones(n).double(), tokens(n))) + expand(step.std, z) * eps
    x0 = x - 0.5 * student(x, torch.full((n,), 0.5).double(), tokens(n))
    cost = (critic.slope * x0 + critic.bias).tanh().mean()
    (expected,) = torch.autograd.grad(cost, student.shift)
    assert abs(expected.item()) > 0.05
    assert found.item() == pytest.approx(expected.item(), rel=0.04)


def test_the_critic_ascends_the_difference_of_means_and_the_value_regresses_it() -> None:
    n, critic, value = 2000, Pixel(0.7, 0.2), Pixel(-0.3, 0.1)
    nets = rig(GaussianVelocity(-0.5, 0.7), critic=critic, value=value)
    given = batch(nets, n)
    loss, metrics = sft_pg.critic_loss(nets, given, stream(0, "critic"), CONFIG)
    made, real = ((0.7 * x.flatten() + 0.2).tanh() for x in (given["states"][:, -1], given["x0"]))
    assert float(metrics["distance"]) == pytest.approx((made.mean() - real.mean()).item())
    error = ((-0.3 * given["states"][:, 0].flatten() + 0.1).tanh() - made).square().mean()  # the one step with noise
    assert loss.item() == pytest.approx((error - made.mean() + real.mean()).item())
    slopes = torch.autograd.grad(loss, [critic.slope, value.slope])
    # f is moved by the distance alone
    by_hand = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x, y = given["states"][:, -1].flatten(), given["x0"].flatten()
    distance = (by_hand * x + 0.2).tanh().mean() - (by_hand * y + 0.2).tanh().mean()
    torch.testing.assert_close(slopes[0], -torch.autograd.grad(distance, by_hand)[0])
    assert slopes[1] != 0


def test_trajectories_are_the_samplers_own_and_only_noisy_steps_are_drawn() -> None:
    cfg = replace(CONFIG, nfe=4)
    nets = rig(GaussianVelocity(MEAN, STD), critic=Pixel(1.0), value=Pixel(1.0))
    states = batch(nets, 3000, cfg)["states"]
    assert states.shape == (3000, 5, 1, 1, 1)
    index, x, x_next = sft_pg.drawn_step(states, stream(0, "s"), 4)
    assert torch.bincount(index).tolist() == pytest.approx([1000] * 3, rel=0.1)
    assert torch.equal(x, states[torch.arange(3000), index])
    assert torch.equal(x_next, states[torch.arange(3000), index + 1])
    last = states[:, 3] - 0.25 * nets.nets["student"](states[:, 3], torch.full((3000,), 0.25).double(), tokens(3000))
    torch.testing.assert_close(states[:, 4], last)
    spec = sft_pg.sampler(cfg)
    assert (spec.rule, len(spec.times)) == ({"name": "cps", "noise_level": 0.6}, 5)


def test_a_sampler_without_noise_is_refused() -> None:
    section = {
        "method": "sft_pg",
        "nfe": 2,
        "critic_updates": 1,
        "student_lr": 1e-4,
        "critic_lr": 1e-4,
        "value_lr": 1e-4,
    }
    with pytest.raises(ValueError, match=r"kernel\.noise_level=0\.0: a step without noise has no density; raise it"):
        check(sft_pg.Config, {**section, "kernel": {"name": "cps", "noise_level": 0.0}}, "distill.arms.x")
