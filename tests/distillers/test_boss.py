"""Straightening at nodes, on the fine trajectories of a Gaussian, which are affine in the noise."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.core.config import check
from stages.core.path import expand
from stages.core.rng import stream
from stages.core.spec import SamplerSpec, even
from stages.distillers import boss
from stages.io.steps import Steps
from stages.samplers import sample
from stages.training.drawn import Draw, on_nodes
from tests.training.gaussian import GaussianVelocity, slopes, tokens, world

CONFIG = boss.Config(method="boss", nfe=2, nodes="best", student_lr=1e-3)
FINE, NODES = 100, (0, 68, 100)


def batch(n: int = 4000) -> dict[str, Tensor]:
    noise = torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=stream(0, "noise"))
    net, times = GaussianVelocity(0.0, 0.5), even(FINE).times
    states = sample(lambda x, t: net(x, t, tokens(len(x))), noise, times, "euler", keep=NODES).states.detach()
    at = torch.tensor([times[i] for i in NODES], dtype=torch.float64).repeat(n, 1)
    return {"states": states.transpose(0, 1), "times": at, "cond": tokens(n)}


class Affine(nn.Module):
    """v = slope x, a slope for each of two nodes."""

    def __init__(self, slopes: list[float]) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.tensor(each, dtype=torch.float64)) for each in slopes)
        self.sample_shape = (1, 1, 1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return torch.where(expand(t, x) > 0.5, self.first, self.second) * x


def exact() -> Affine:
    given = batch(1)
    x, t = given["states"][0].flatten(), given["times"][0]
    return Affine([float((x[i] - x[i + 1]) / (t[i] - t[i + 1]) / x[i]) for i in (0, 1)])


def test_the_slopes_between_the_fine_trajectorys_states_are_the_optimum() -> None:
    net = exact()
    value, _ = boss.loss(world(student=net), batch(), stream(0, "l"), CONFIG)
    assert value.item() < 1e-25
    assert slopes(value, net) == pytest.approx({"first": 0, "second": 0}, abs=1e-10)


def test_in_few_steps_that_optimum_is_the_fine_grids_output() -> None:
    found = Steps(even(FINE).times, [[0, 100], NODES], [1.0, 0.5])
    spec, net, one = on_nodes(boss.sampler(CONFIG), found), exact(), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    assert spec.times == pytest.approx((1.0, 0.32, 0.0))
    assert spec.schedule == {"name": "explicit", "at": list(spec.times)}
    end = sample(lambda x, t: net(x, t, tokens(1)), one, spec.times, "euler").x0
    assert end.item() == pytest.approx(0.492645, abs=1e-6)


def test_each_jump_has_half_of_the_weight() -> None:
    given, off = batch(), exact()
    off.first.data += 0.1
    value, _ = boss.loss(world(student=off), given, stream(0, "l"), CONFIG)
    assert value.item() == pytest.approx(0.01 / 2, rel=0.1)
    off.first.data -= 0.1
    off.second.data += 0.1
    value, _ = boss.loss(world(student=off), given, stream(0, "l"), CONFIG)
    assert value.item() == pytest.approx(0.01 / 2 * given["states"][:, 1].square().mean().item(), rel=0.1)


def test_even_nodes_need_no_search() -> None:
    spec = boss.sampler(boss.Config(method="boss", nfe=4, nodes="even", student_lr=1e-3))
    assert on_nodes(spec, None) == even(4)


def draw(rule: dict[str, Any], schedule: dict[str, Any]) -> Draw:
    sampler = {"rule": rule, "schedule": schedule, "guidance": 1.0}
    return check(Draw, {"num_pairs": 10, "sampler": sampler}, "draw")


EULER, UNIFORM = {"name": "euler"}, {"name": "uniform", "steps": 8}


def test_nodes_are_indices_into_the_trajectories_grid() -> None:
    found = Steps(even(8).times, [[0, 8], [0, 5, 8]], [1.0, 0.5])
    assert list(draw(EULER, UNIFORM).nodes(boss.sampler(CONFIG), found)) == [0, 5, 8]
    assert list(draw(EULER, UNIFORM).nodes(even(4), None)) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(
    ("made", "spec", "searched", "message"),
    [
        (draw({"name": "heun"}, UNIFORM), even(4), None, "take rule euler, schedule uniform"),
        (draw(EULER, {"name": "shifted", "steps": 8, "shift": 3.0}), even(4), None, "take rule euler, schedule unif"),
        (draw(EULER, UNIFORM), even(3), None, "its 8 steps are no multiple of the student's 3"),
        (draw(EULER, UNIFORM), boss.sampler(CONFIG), 16, "in a grid of 16, and this has 8"),
        (draw(EULER, UNIFORM), boss.sampler(replace(CONFIG, nfe=9)), 8, "the student's 9 steps are not among its 8"),
    ],
)
def test_trajectories_without_the_nodes_are_refused(
    made: Draw, spec: SamplerSpec, searched: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"arms\.x\.draw\.sampler: .*{message}"):
        made.has_nodes(spec, searched, "arms.x")
