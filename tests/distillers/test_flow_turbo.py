"""FlowTurbo's refiner: what it regresses on flows that are known, and that nothing else learns."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.path import expand
from stages.core.rng import fork, normal_like, stream, uniform
from stages.distillers import flow_turbo
from stages.models.transformer import TransformerConfig
from tests.distillers.beside import cost_where_the_model_stays
from tests.training.gaussian import world

F64 = torch.float64
CONFIG = flow_turbo.Config(
    method="flow_turbo", heun=1, reused=2, refined=2, reach=(0.0, 0.25), guidance=1.0, student_lr=1e-3,
    refiner=TransformerConfig(kind="transformer", width=8, num_layers=1, num_heads=2, patch_size=2),
)  # fmt: skip


class Refined(nn.Module):
    """A velocity of a function, and a refiner that says `scale` times what another function does."""

    def __init__(self, velocity, change) -> None:
        super().__init__()
        self.velocity, self.change, self.scale = velocity, change, nn.Parameter(torch.ones((), dtype=F64))
        self.asked: list[tuple[Tensor, ...]] = []

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.velocity(x, t)

    def beside(self, x: Tensor, t: Tensor, cond: Tensor, told: Tensor) -> Tensor:
        self.asked.append((x, t, told))
        return self.scale * self.change(x, t, told)


def batch(n: int = 400) -> dict[str, Tensor]:
    return {"x0": torch.randn(n, 1, 1, 1, dtype=F64, generator=stream(0, "x0")), "cond": torch.ones(n, 1).long()}


def loss(student: nn.Module, **knobs) -> tuple[Tensor, dict]:
    return flow_turbo.loss(world(student=student), batch(), stream(0, "l"), replace(CONFIG, **knobs))


def test_where_nothing_changes_a_refiner_says_nothing() -> None:
    still = Refined(lambda x, _t: torch.full_like(x, 0.7), lambda x, _t, _last: 0 * x)
    value, told = loss(still)
    assert value.item() == told["rms_change"].item() == 0
    curved = Refined(lambda x, t: torch.sin(x) + expand(t, x), lambda x, _t, _last: 0 * x)
    near, far = (loss(curved, reach=(0.0, longest))[0].item() for longest in (1e-6, 0.25))
    assert near < 1e-10 < far


def test_the_true_change_is_its_optimum_and_it_is_told_the_slope_before() -> None:
    velocity = lambda x, t: torch.sin(x) + expand(t, x) ** 2  # noqa: E731
    right = Refined(velocity, lambda x, t, last: velocity(x, t) - last)
    value, _ = loss(right)
    value.backward()
    assert value.item() < 1e-25
    assert right.scale.grad.abs() < 1e-10
    noises, times, lengths = fork(stream(0, "l"), "noises", "times", "lengths")
    x0 = batch()["x0"]
    t = uniform(len(x0), times, x0)
    then = (t - uniform(len(x0), lengths, x0, 0.0, 0.25)).clamp_min(0)
    x = (1 - expand(t, x0)) * x0 + expand(t, x0) * normal_like(x0, noises)
    [(asked, at, last)] = right.asked
    torch.testing.assert_close(last, velocity(x, t))
    torch.testing.assert_close(asked, x - expand(t - then, x) * last)
    assert torch.equal(at, then)
    assert 0 <= then.min() < 0.01
    assert ((t - then) <= 0.25).all()


def test_the_model_stays_as_it_is() -> None:
    assert cost_where_the_model_stays(flow_turbo, CONFIG) == (48, 24, 24)


def test_the_student_takes_the_steps_that_it_is_made_for() -> None:
    spec = flow_turbo.sampler(replace(CONFIG, guidance=2.0))
    assert (spec.rule, spec.num_steps, spec.guidance) == ({"name": "flow_turbo", "heun": 1, "refined": 2}, 5, 2.0)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_it_learns_the_slopes_that_are_used(guidance: float) -> None:
    """Those under guidance, of both branches."""

    class Told(Refined):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            return self.velocity(x, t) * torch.where(cond == 0, 1.0, 2.0)[..., None, None]

    velocity = lambda x, t: torch.sin(x) + expand(t, x)  # noqa: E731
    scale = 1 + guidance * (2 - 1)
    right = Told(velocity, lambda x, t, last: scale * velocity(x, t) - last)
    assert loss(right, guidance=guidance)[0].item() < 1e-25


def test_steps_are_of_some_length_the_shortest_first():
    with pytest.raises(ValueError, match=r"reach=\[0\.3, 0\.2\]: the shortest step comes first"):
        replace(CONFIG, reach=(0.3, 0.2))
    with pytest.raises(ValueError, match="the longest is above 0"):
        replace(CONFIG, reach=(0.0, 0.0))
