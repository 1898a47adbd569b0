"""DSNO on a Gaussian, whose trajectories are affine in the noise, and on networks that are trained."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.core.config import check
from stages.core.path import expand
from stages.core.rng import stream
from stages.core.spec import even
from stages.distillers import dsno, kd
from stages.samplers import sample
from stages.samplers.student import Noise, draw
from tests.training.gaussian import GaussianAverage, GaussianVelocity, tokens, world

F64 = torch.float64
MEAN, STD = 1.0, 0.5
CONFIG = dsno.Config(method="dsno", states=4, modes=2, distance="l2", heaviest=1e4, student_lr=1e-3)
NODES = (0, 100, 200, 300, 400)


def batch(n: int = 500, nodes: tuple[int, ...] = NODES) -> dict[str, Tensor]:
    noise = torch.randn(n, 1, 1, 1, dtype=F64, generator=stream(0, "noise"))
    net, grid = GaussianVelocity(MEAN, STD), even(400).times
    states = sample(lambda x, t: net(x, t, tokens(len(x))), noise, grid, "dpmpp_2m", keep=nodes).states.detach()
    at = torch.tensor([grid[i] for i in nodes], dtype=F64).repeat(n, 1)
    return {
        "states": states.transpose(0, 1),
        "times": at,
        "x0": states[-1],
        "noise": noise,
        "cond": tokens(n),
    }


class Answers(nn.Module):
    """Fields of the exact trajectory, each `off` from it."""

    def __init__(self, off: float | list[float] = 0.0, cfg: dsno.Config = CONFIG) -> None:
        super().__init__()
        times = even(cfg.states).times[1:]
        offs = off if isinstance(off, list) else [off] * len(times)
        self.off, self.times = nn.Parameter(torch.tensor(offs, dtype=F64)), times

    def fields(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        exact = GaussianAverage(MEAN, STD)
        found = [exact(x, t, cond, until=torch.full_like(t, s)).detach() for s in self.times]
        return torch.cat([each + off for each, off in zip(found, self.off, strict=True)], dim=1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, **_more: Any) -> Tensor:
        return self.fields(x, t, cond)[:, -1:]


def value(net: nn.Module, cfg: dsno.Config = CONFIG, given: dict[str, Tensor] | None = None) -> Tensor:
    found, _ = dsno.loss(world(student=net), given or batch(), stream(0, "l"), cfg)
    return found


def test_the_exact_states_have_no_loss_and_it_bends_back_to_them() -> None:
    net = Answers()
    assert value(net).item() < 1e-8, "the trajectories' own error"
    above = Answers(0.1)
    value(above).backward()
    assert (above.off.grad > 0).all()


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_a_states_error_is_its_velocitys_by_the_way_there_weighted(distance: Any) -> None:
    cfg = replace(CONFIG, distance=distance, heaviest=50.0)
    errors = [0.1, -0.2, 0.05, 0.02]
    ways, weight = [0.25, 0.5, 0.75, 1.0], [1.0, 1.0, 3.0, 50.0]  # (1 - t) / t between 1 and the most
    each = [abs(way * e) if distance == "l1" else (way * e) ** 2 for way, e in zip(ways, errors, strict=True)]
    expected = sum(w * e for w, e in zip(weight, each, strict=True)) / sum(weight)
    assert value(Answers(errors, cfg), cfg).item() == pytest.approx(expected, rel=1e-3)


def test_with_one_state_it_is_knowledge_distillation() -> None:
    cfg, given = replace(CONFIG, states=1, modes=1), batch(nodes=(0, 400))
    net = Answers(0.3, cfg)
    theirs, _ = kd.loss(world(student=net), given, stream(0, "l"), kd.Config(method="kd", student_lr=1e-3))
    torch.testing.assert_close(value(net, cfg, given), 2 * theirs)


def test_the_sample_of_one_call_is_the_last_state() -> None:
    from stages.models import Student
    from stages.models.network import seeded_teacher
    from stages.models.text import Clip
    from tests.models.test_second_time import PROMPTS, ROWS, SIZES, SPACE

    net = seeded_teacher(0, SIZES["transformer"], SPACE.shape, ["", *PROMPTS], Clip(kind="clip", num_layers=1))
    nn.init.normal_(net.last_layer[0].weight, std=0.3, generator=stream(0, "test"))
    net.add_policy(dsno.roles(CONFIG)["student"].policy, 0)
    nn.init.normal_(net.body.which, generator=stream(0, "test"))
    net.eval().requires_grad_(False)
    noise = Noise(3, "test")
    found = draw(Student(net, dsno.sampler(CONFIG), SPACE, net.text.frozen()), ROWS, noise)
    x, one = noise.at(0, 2, SPACE.shape), torch.ones(2)
    last = net.fields(x, one, ROWS)[:, -SPACE.shape[0] :]
    torch.testing.assert_close(found, x - expand(one, x) * last, rtol=1e-5, atol=1e-5)


def test_more_modes_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"modes=4: 4 states have 3 at most"):
        check(
            dsno.Config,
            {"method": "dsno", "states": 4, "modes": 4, "distance": "l1", "heaviest": 1e4, "student_lr": 1e-3},
            "distill.arms.mine",
        )
