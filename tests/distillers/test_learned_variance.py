"""iDDPM's variances: what is least of their loss, that the model stays, and what samples of a Gaussian come to."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.path import LINEAR, expand
from stages.core.rng import stream
from stages.core.spec import even
from stages.distillers import learned_variance
from stages.models.transformer import TransformerConfig
from stages.samplers.grid import build
from stages.samplers.learned_variance import bounds
from tests.distillers.beside import cost_where_the_model_stays
from tests.samplers.test_learned_variance import wanted
from tests.training.gaussian import world

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
    least = [0.5 * each * bounds(grid, i)[1] for i, each in enumerate(v)]  # half of log(var / small): the rest is 1 - 1
    assert value.item() == pytest.approx(sum(least) / 3, rel=0.01)
    assert told["v"].item() == pytest.approx(sum(v) / 3, abs=2e-3)
    for name, says in (("nats_small", -1.0), ("nats_large", 1.0)):
        plain, _ = loss(Known([says] * 3))
        assert told[name].item() == pytest.approx(plain.item())
        assert plain > value


def test_a_variance_that_is_too_small_is_made_larger_and_the_other_way_round() -> None:
    low, high = Known([-1.0] * 3), Known([1.0] * 3)
    for student, sign in ((low, -1), (high, 1)):
        loss(student)[0].backward()
        assert (sign * student.says.grad > 0).all()


def test_of_a_model_under_guidance_the_mean_that_is_used_is_judged() -> None:
    plain, guided = (loss(Known([0.0] * 3), guidance=scale)[1]["nats"].item() for scale in (1.0, 3.0))
    assert guided > plain + 0.01, "it is farther from the data"


def test_the_model_stays_as_it_is() -> None:
    assert cost_where_the_model_stays(learned_variance, CONFIG) == (24, 24, 24)


def test_the_student_takes_the_steps_that_it_is_made_for() -> None:
    spec = learned_variance.sampler(replace(CONFIG, guidance=2.0))
    assert (spec.rule, spec.num_steps, spec.guidance) == ({"name": "learned_variance"}, 4, 2.0)
    with pytest.raises(ValueError, match="nfe=1: a single step is without noise; set it to 2 or more"):
        replace(CONFIG, nfe=1)
