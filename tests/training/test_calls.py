"""How losses call networks and rewards: more inputs and heads, derivatives, and finite samples alone."""

import pytest
import torch
from torch import Tensor, nn

from stages.core.prompts import Prompt
from stages.core.rng import stream
from stages.models.space import Pixels
from stages.training.cost import SCORED, Meter
from stages.training.method import Trained
from stages.training.networks import world_of
from stages.training.roles import heads_of
from tests.training.tiny import TinyNet
from tests.training.words import rows

SPACE = Pixels((1, 4, 4))
BF16 = torch.bfloat16


def test_a_head_is_told_by_where_it_starts() -> None:
    assert heads_of({"student": Trained(start="init", lr=1.0), "head": Trained(start="head", lr=1.0)}) == ["head"]


class TwoHeaded(nn.Module):
    """A velocity and a second one, at two times."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, *, until: Tensor) -> tuple[Tensor, Tensor]:
        return self.scale * x, (self.scale * (t - until)).to(BF16)


def test_a_network_with_a_second_time_and_a_second_head_counts_as_one_call() -> None:
    meter = Meter(["student"])
    net = world_of({"student": TwoHeaded()}, SPACE, None, meter, precision="float32", device="cpu").nets["student"]
    x, t = torch.ones(5, 1, 4, 4), torch.full((5,), 0.5)
    first, second = net(x, t, rows([0] * 5), until=t / 2)
    assert second.dtype == torch.float32
    (first.sum() + second.sum()).backward()
    assert dict(zip(meter.names, meter.take(), strict=True)) == {
        "student/forward": 5, "student/forward_part": 0, "student/backward": 5, "student/backward_part": 0, "scored": 0,
    }  # fmt: skip


def test_a_directional_derivative_goes_through_the_networks_that_losses_hold_and_counts_as_a_second_call() -> None:
    meter = Meter(["n"])
    net = world_of({"n": TinyNet(0)}, SPACE, None, meter, precision="float32", device="cpu").nets["n"]
    x, v = (torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=stream(0, name)) for name in "xv")
    t, cond = torch.full((2,), 0.4, dtype=torch.float64), rows([0, 1])
    value, slope = torch.func.jvp(lambda x, t: net(x, t, cond), (x, t), (v, torch.ones_like(t)))
    assert meter.take()[0] == 2 * len(x)
    ahead, behind = (net(x + h * v, t + h, cond) for h in (1e-5, -1e-5))
    torch.testing.assert_close(slope, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(value, net(x, t, cond))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_sample_that_is_not_finite_is_shown_to_no_reward_and_gets_no_verdict(bad: float) -> None:
    seen = []

    def reward(images: Tensor, prompts: list[Prompt]) -> Tensor:
        assert images.isfinite().all()
        seen.append([prompt.text for prompt in prompts])
        return images.flatten(1).mean(1)

    meter, known = Meter([]), [Prompt(text) for text in ("", "a", "b", "c")]
    scored = world_of({}, SPACE, (reward, known, (1.0,)), meter, precision="float32", device="cpu").reward
    assert scored is not None
    samples = torch.zeros(3, 1, 4, 4)
    samples[1, 0, 2, 3] = bad
    found = scored(samples, rows([0, 1, 2]))
    assert found[[0, 2]].tolist() == [0.5, 0.5]
    assert found[1].isnan()
    assert seen == [["a", "c"]]
    assert scored(samples[1:2], rows([1])).isnan().all()
    assert len(seen) == 1
    assert dict(zip(meter.names, meter.take(), strict=True)) == {SCORED: 4}
