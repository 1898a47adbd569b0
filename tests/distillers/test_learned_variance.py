"""iDDPM's variances: what is least of their loss, that the model stays, and what samples of a Gaussian come to."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.path import LINEAR, expand
from stages.core.rng import stream
from stages.core.spec import even
from stages.distillers import learned_variance
from stages.models.space import Points
from stages.models.transformer import TransformerConfig
from stages.samplers.grid import build
from stages.training.budget import Budget
from stages.training.loop import Trainer
from stages.training.roles import Start
from tests.samplers.test_learned_variance import wanted
from tests.training.gaussian import world
from tests.training.tiny import TinyNet

F64 = torch.float64
STD = 0.5
CONFIG = learned_variance.Config(
    method="learned_variance", nfe=4, guidance=1.0, student_lr=1e-3,
    variance=TransformerConfig(kind="transformer", width=8, num_layers=1, num_heads=2, patch_size=2),
)  # fmt: skip


class Known(nn.Module):
    """The velocity of data N(0, STD^2), and beside it what is said at each time, by a parameter for each step."""

    def __init__(self, says: list[float]) -> None:
        super().__init__()
        self.says = nn.Parameter(torch.tensor(says, dtype=F64))
        self.pull = nn.Parameter(torch.ones((), dtype=F64))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        sigma = expand(t, x)
        alpha = 1 - sigma
        data = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * x
        scale = torch.where(cond == 0, 0.5, 1.0)[..., None, None]
        return self.pull * scale * (x - data) / sigma

    def beside(self, x: Tensor, t: Tensor, cond: Tensor, told: Tensor) -> Tensor:
        step = ((1 - t) * (len(self.says) + 1)).round().long()
        return expand(self.says[step], x).expand_as(x)


def loss(student: nn.Module, **knobs: object) -> tuple[Tensor, dict[str, Tensor]]:
    n = 100_000
    given = {"x0": STD * torch.randn(n, 1, 1, 1, dtype=F64, generator=stream(0, "x0")), "cond": torch.ones(n, 1).long()}
    return learned_variance.loss(world(student=student), given, stream(0, "l"), replace(CONFIG, **knobs))


def test_the_right_variance_is_its_optimum_and_the_model_has_no_gradient() -> None:
    grid = build(LINEAR, even(4).times)
    v = [wanted(grid, i, STD) for i in range(3)]
    right = Known([2 * each - 1 for each in v])
    value, told = loss(right)
    value.backward()
    assert right.says.grad.abs().max().item() < 4e-3
    assert right.pull.grad is None
    # the divergence of two Gaussians of equal variance whose means differ: half the logarithm of var / small
    least = sum(each * (2 * math.log(1 / grid.noisy(i, 1.0)[2]) + math.log(width(grid, i))) for i, each in enumerate(v))
    assert value.item() == pytest.approx(least / 6, rel=0.01)
    assert told["v"].item() == pytest.approx(sum(v) / 3, abs=2e-3)
    for name, says in (("nats_small", -1.0), ("nats_large", 1.0)):
        plain, _ = loss(Known([says] * 3))
        assert told[name].item() == pytest.approx(plain.item())
        assert plain > value


def width(grid, i: int) -> float:
    """large of step i."""
    sizes = [math.hypot(grid.alpha[node], grid.sigma[node]) for node in (i, i + 1)]
    return (grid.noisy(i, 1.0)[2] * grid.sigma[i] / grid.sigma[i + 1] * sizes[1] / sizes[0]) ** 2


def test_a_variance_that_is_too_small_is_made_larger_and_the_other_way_round() -> None:
    low, high = Known([-1.0] * 3), Known([1.0] * 3)
    for student, sign in ((low, -1), (high, 1)):
        loss(student)[0].backward()
        assert (sign * student.says.grad > 0).all()


def test_of_a_model_under_guidance_the_mean_that_is_used_is_judged() -> None:
    plain, guided = (loss(Known([0.0] * 3), guidance=scale)[1]["nats"].item() for scale in (1.0, 3.0))
    assert guided > plain + 0.01, "it is farther from the data"


def test_the_model_stays_as_it_is() -> None:
    begun = TinyNet(3)
    budget = Budget(iterations=3, ema=0.9, clip=1.0, warmup=0, final_lr=1.0, precision="float32", slices=1)
    start = Start(init=begun, teacher=TinyNet(4), space=Points((1, 4, 4), F64))
    trainer = Trainer(learned_variance, CONFIG, budget, start, seed=0, device="cpu")
    student = trainer.weights.nets["student"]
    before = {name: weight.clone() for name, weight in student.state_dict().items()}
    given = {"x0": torch.randn(8, 1, 4, 4, dtype=F64, generator=stream(0, "x0")), "cond": torch.ones(8, 1).long()}
    for _ in range(3):
        trainer.step(given)
    for name, weight in student.state_dict().items():
        assert torch.equal(weight, before[name]) == (not name.startswith("companion")), name
    cost = trainer.cost.networks["student"]
    assert (cost["forward"], cost["forward_part"], cost["backward_part"]) == (24, 24, 24)


def test_the_student_takes_the_steps_that_it_is_made_for() -> None:
    spec = learned_variance.sampler(replace(CONFIG, guidance=2.0))
    assert (spec.rule, spec.num_steps, spec.guidance) == ({"name": "learned_variance"}, 4, 2.0)
    with pytest.raises(ValueError, match="nfe=1: a single step is without noise; set it to 2 or more"):
        replace(CONFIG, nfe=1)
