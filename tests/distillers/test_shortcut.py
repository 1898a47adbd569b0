"""Shortcut models on Gaussians, whose average velocity has a closed form."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.config import check
from stages.core.rng import stream
from stages.distillers import shortcut
from tests.training.gaussian import GaussianAverage, GaussianVelocity, slopes, tokens, world

CONFIG = shortcut.Config(
    method="shortcut", nfe=2, num_steps=8, velocity="teacher", guidance=1.0, condition_dropout=0.0,
    bootstrap_share=0.75, target_clip=4.0, target_decay=0.9, student_lr=1e-3,
)  # fmt: skip
F64 = torch.float64


def point(*times: float) -> list[Tensor]:
    return [torch.full((1, 1, 1, 1), 0.9, dtype=F64), *(torch.full((1,), time, dtype=F64) for time in times)]


def test_two_exact_steps_are_one() -> None:
    net, (x, t, d) = GaussianAverage(0.7, 0.4), point(0.6, 0.2)
    both = shortcut.two_steps(net, x, t, d, tokens(1), 4.0).item()
    assert both == pytest.approx(-0.091929, abs=1e-6)
    assert both == pytest.approx(net(x, t, tokens(1), until=t - 2 * d).item(), abs=1e-12)


def test_steps_go_to_nothing_as_flow_matching() -> None:
    net, (x, t, d) = GaussianAverage(0.7, 0.4), point(0.6, 1e-6)
    velocity = GaussianVelocity(0.7, 0.4)(x, t, tokens(1)).item()
    assert shortcut.two_steps(net, x, t, d, tokens(1), 4.0).item() == pytest.approx(velocity, abs=1e-5)
    assert velocity == pytest.approx(0.161826, abs=1e-6)


def test_states_and_targets_are_clipped() -> None:
    class Far(nn.Module):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor, until: Tensor) -> Tensor:
            seen.append(x.max().item())
            return torch.full_like(x, -100.0)

    seen: list[float] = []
    x, t, d = point(1.0, 0.5)
    assert shortcut.two_steps(Far(), x, t, d, tokens(1), 4.0).item() == -4.0
    assert seen == [0.9, 4.0]


def test_rows_have_their_shares_and_times_on_their_grids() -> None:
    rows = shortcut.draw_rows(torch.zeros(4000, 1, dtype=F64), stream(0, "rows"), CONFIG)
    assert (rows.num_smallest, rows.num_bootstrap) == (1000, 3000)
    sizes, counts = rows.step[:3000].unique(return_counts=True)
    assert sizes.tolist() == [0.25, 0.5, 1.0]
    assert counts.tolist() == [1000, 1000, 1000]
    assert (rows.step[:1000] == 0.25).all()
    assert (rows.step[3000:] == 0.125).all()
    places = rows.t / rows.step
    assert torch.equal(places, places.round())
    assert (rows.t - rows.step).min() == 0
    assert rows.t.max() == 1
    assert (rows.t[3000:] == 0.125).double().mean().item() == pytest.approx(1 / 8, abs=0.03)


def batch(n: int, which: int = 0) -> dict[str, Tensor]:
    x0 = 0.7 + 0.4 * torch.randn(n, 1, 1, 1, dtype=F64, generator=stream(0, "x0"))
    return {"x0": x0, "cond": tokens(n, which)}


def test_the_exact_average_is_a_fixed_point_of_the_bootstrap_and_flow_matching_of_the_rest() -> None:
    exact, teacher = GaussianAverage(0.7, 0.4), GaussianVelocity(0.7, 0.4)
    metrics = shortcut.loss(world(student=exact, target=exact, teacher=teacher), batch(400), stream(0, "l"), CONFIG)[1]
    assert metrics["bootstrap"] < 1e-20
    assert metrics["flow"] > 1e-4, "the velocity at t, in the place of its average over 1/M"
    # A network that ignores the step is the teacher: only bootstrap rows have something to say.
    same = Blind(teacher)
    metrics = shortcut.loss(world(student=same, target=same, teacher=teacher), batch(400), stream(0, "l"), CONFIG)[1]
    assert metrics["flow"] < 1e-20
    assert metrics["bootstrap"] > 1e-3


class Blind(nn.Module):
    """A network of one time."""

    sample_shape = (1, 1, 1)

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, until: Tensor | None = None) -> Tensor:
        return self.net(x, t, cond)


def test_from_data_only_the_smallest_steps_are_guided() -> None:
    net = Blind(GaussianVelocity([0.2, 0.7], 0.4))
    cfg, given = replace(CONFIG, velocity="data", guidance=2.0), batch(400, 1)
    rows = shortcut.draw_rows(given["x0"], stream(0, "rows"), cfg)
    nets, x = world(student=net, target=net, teacher=net), given["x0"]
    made = shortcut.target(nets, rows, x, torch.zeros_like(x), given["cond"], cfg)
    plain = shortcut.target(nets, rows, x, torch.zeros_like(x), given["cond"], CONFIG)
    guided = shortcut.two_steps(Blind(GaussianVelocity(1.2, 0.4)), x, rows.t, rows.step / 2, tokens(400), 4.0)
    torch.testing.assert_close(made[: rows.num_smallest], guided[: rows.num_smallest])
    assert torch.equal(made[rows.num_smallest :], plain[rows.num_smallest :])
    assert (made[rows.num_bootstrap :] == 0).all()


def test_targets_carry_no_gradient() -> None:
    student, kept = GaussianAverage(0.5, 0.3), GaussianAverage(0.5, 0.3)
    teacher, given = GaussianVelocity(0.7, 0.4), batch(400)
    nets = world(student=student, target=student, teacher=teacher)
    found = slopes(shortcut.loss(nets, given, stream(0, "l"), CONFIG)[0], student)

    def at(mean: float) -> float:
        nets = world(student=GaussianAverage(mean, 0.3), target=kept, teacher=teacher)
        return shortcut.loss(nets, given, stream(0, "l"), CONFIG)[0].item()

    assert found["mean"] == pytest.approx((at(0.5 + 1e-5) - at(0.5 - 1e-5)) / 2e-5, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 12}, "num_steps=12: steps double in size, .* name a power of two"),
        ({"nfe": 3}, "nfe=3: steps double"),
        ({"nfe": 16}, "num_steps=8: the smallest step is a half or less, and as small as 1/nfe"),
    ],
)
def test_sizes_that_do_not_double_are_refused(changes: dict[str, int], message: str) -> None:
    section = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__} | changes
    with pytest.raises(ValueError, match=message):
        check(shortcut.Config, section, "arms.x")
