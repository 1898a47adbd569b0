"""Direct reward gradients against the chain rule on a Gaussian, finite differences, and where the graph is cut."""

import weakref
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from stages import rl
from stages.core.config import check
from stages.core.rng import fork, stream
from stages.core.spec import even
from stages.core.types import World
from stages.io.job import Job
from stages.models.space import Points
from stages.policies import direct
from stages.samplers.rollout import rolled_out
from tests.policies.groups import batch, gradient, mean_pixel, slope_of, tiny
from tests.training.gaussian import GaussianVelocity, ShiftedVelocity, tokens
from tests.training.tiny import TinyNet

PARAMS = Path(__file__).parents[2] / "params/policy"
CONFIG = direct.Config(
    method="direct", nfe=4, guidance=1.0, route=direct.Last(name="last", steps=4), gradient="autograd",
    num_updates=1, beta_kl=0.0, student_lr=1e-4,
)  # fmt: skip


def last(steps: int) -> direct.Last:
    return direct.Last(name="last", steps=steps)


def gaussian(shift: float = 0.0) -> tuple[World, ShiftedVelocity, dict[str, Tensor]]:
    """Data N(1, .25), a policy that can move by one shift of its velocity, and r = x0."""
    student, truth = ShiftedVelocity(GaussianVelocity(1.0, 0.5)), GaussianVelocity(1.0, 0.5).requires_grad_(False)
    student.shift.data.fill_(shift)
    space = Points((1, 1, 1), torch.float64)
    world = World(nets={"student": student, "reference": truth}, space=space, reward=mean_pixel)
    return world, student, {"cond": tokens(6)}


# the same for every sample: sum over the last K steps of h times the slopes of all steps after it
@pytest.mark.parametrize(("steps", "expected"), [(1, 0.25), (2, 0.3375), (4, 0.7558)])
def test_a_shift_of_the_last_steps_has_the_known_slope(steps: int, expected: float) -> None:
    world, student, given = gaussian()
    value, metrics = direct.loss(world, given, stream(0, "loss"), replace(CONFIG, route=last(steps)))
    (slope,) = torch.autograd.grad(value, student.shift)
    times, found = even(4).times, 0.0
    for k in range(4 - steps, 4):
        product = 0.25
        for j in range(k + 1, 4):
            t = times[j]
            product *= 1 - 0.25 * (t - (1 - t) * 0.25) / ((1 - t) ** 2 * 0.25 + t**2)
        found += product
    assert slope.item() == pytest.approx(found)
    if steps != 2:
        assert slope.item() == pytest.approx(expected, abs=5e-5)
    assert value.item() == pytest.approx(-float(metrics["reward"]))


@pytest.mark.parametrize("steps", [1, 4])
def test_with_a_drift_the_optimum_is_half_the_slope_over_beta(steps: int) -> None:
    """E[r] - beta shift^2 is largest where the shift is -slope / (2 beta): a velocity that falls, samples that rise."""
    slope, cfg = {1: 0.25, 4: 0.7558212}[steps], replace(CONFIG, route=last(steps), beta_kl=0.5)
    for share, sign in ((1.0, 0), (0.5, 1), (1.5, -1)):
        world, student, given = gaussian(-share * slope / (2 * cfg.beta_kl))
        (found,) = torch.autograd.grad(direct.loss(world, given, stream(0, "loss"), cfg)[0], student.shift)
        assert found.item() == pytest.approx(sign * slope / 2, abs=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_through_all_steps_it_is_the_finite_difference_of_the_mean_reward(guidance: float) -> None:
    cfg = replace(CONFIG, guidance=guidance)
    world = tiny(direct, cfg)
    student, size = world.nets["student"], 1e-6
    found = slope_of(direct, world, batch(), cfg)
    direction = torch.randn(found.shape, dtype=torch.float64, generator=stream(0, "direction"))

    def value(step: float) -> float:
        nn.utils.vector_to_parameters(start + step * direction, student.parameters())
        return direct.loss(world, batch(), stream(0, "loss"), cfg)[0].item()

    start = nn.utils.parameters_to_vector(student.parameters()).detach().clone()
    assert float(found @ direction) == pytest.approx((value(size) - value(-size)) / (2 * size), rel=1e-6)


class Watched(nn.Module):
    """Notes at which times it was called with a gradient, and whether its input had one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TinyNet(0)
        self.seen: list[tuple[float, bool, bool]] = []

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.seen.append((t[0].item(), torch.is_grad_enabled(), x.requires_grad))
        return self.net(x, t, cond)


@pytest.mark.parametrize(
    ("route", "ends"),
    [
        (direct.Last(name="last", steps=2), {(0.5, 0.25)}),
        (direct.Random(name="random", steps=3), {(0.25,), (0.5, 0.25), (0.75, 0.5, 0.25)}),
        (direct.Early(name="early", steps=3), {(0.25,), (0.5,), (0.75,)}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_graph_is_cut_where_the_route_says(route: object, ends: set[tuple[float, ...]]) -> None:
    found = set()
    for seed in range(16):
        student = Watched()
        world = tiny(direct, CONFIG, student=student)
        direct.loss(world, batch(), stream(seed, "loss"), replace(CONFIG, route=route))
        learnt = [time for time, learns, _ in student.seen if learns]
        before = [time for time, learns, _ in student.seen if not learns]
        assert [*before, *learnt] == [1 - k / 4 for k in range(len(student.seen))]
        attached = [has for _, learns, has in student.seen if learns]
        assert attached == [False] + [True] * (len(learnt) - 1)
        found.add(tuple(learnt))
    assert found == ends


def test_an_early_stop_judges_the_data_that_it_sees() -> None:
    cfg, judged = replace(CONFIG, route=direct.Early(name="early", steps=1)), []
    world = replace(tiny(direct, cfg), reward=lambda x, cond: judged.append(x) or mean_pixel(x, cond))
    direct.loss(world, batch(), stream(0, "loss"), cfg)
    cond, (starts, _) = batch()["cond"], fork(stream(0, "loss"), "starts", "stops")
    states = rolled_out(world.nets["student"], world.space.noise(24, starts), even(4).times, cond)
    torch.testing.assert_close(judged[0], states[:, -1])  # the last call's data is the sample


def test_the_drift_is_that_of_the_calls_with_a_gradient() -> None:
    cfg = replace(CONFIG, route=last(2), beta_kl=0.3)
    world = tiny(direct, cfg)
    held, free = (direct.loss(world, batch(), stream(0, "loss"), c)[0] for c in (cfg, replace(cfg, beta_kl=0.0)))
    cond, (starts, _) = batch()["cond"], fork(stream(0, "loss"), "starts", "stops")
    states = rolled_out(world.nets["student"], world.space.noise(24, starts), even(4).times, cond)
    gaps = []
    for k in (2, 3):
        t = torch.full((24,), 1 - k / 4, dtype=torch.float64)
        gap = world.nets["student"](states[:, k], t, cond) - world.nets["reference"](states[:, k], t, cond)
        gaps.append(gap.square().mean())
    torch.testing.assert_close(held - free, 0.3 * sum(gaps) / 2)


ROUTES = [last(1), last(3), direct.Random(name="random", steps=4), direct.Early(name="early", steps=3)]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.name} {route.steps}")
@pytest.mark.parametrize(("guidance", "beta_kl"), [(1.0, 0.0), (2.0, 0.4)])
def test_the_discrete_adjoint_is_autograd_s_gradient(route: object, guidance: float, beta_kl: float) -> None:
    found = []
    for gradient_by in ("autograd", "discrete"):
        cfg = replace(CONFIG, route=route, guidance=guidance, beta_kl=beta_kl, gradient=gradient_by)
        world = tiny(direct, cfg)
        value, metrics = direct.loss(world, batch(), stream(1, "loss"), cfg)
        found.append((value.detach(), metrics["drift"], metrics["reward"], gradient(value, world.nets["student"])))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_the_continuous_adjoint_nears_autograd_s_gradient_by_the_step() -> None:
    gaps = []
    for nfe in (16, 32, 64):
        slopes = []
        for gradient_by in ("autograd", "continuous"):
            cfg = replace(CONFIG, nfe=nfe, route=last(nfe), beta_kl=0.4, gradient=gradient_by)
            slopes.append(slope_of(direct, tiny(direct, cfg), batch(), cfg))
        gaps.append(((slopes[0] - slopes[1]).norm() / slopes[0].norm()).item())
    assert gaps[-1] < 0.05
    assert [a / b for a, b in pairwise(gaps)] == pytest.approx([2, 2], rel=0.15), "of order 1"


class Saved:
    """A tensor that a graph keeps; it goes when the graph does."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def most_kept(cfg: direct.Config) -> int:
    """Numbers that graphs keep at once for their way back."""
    alive: weakref.WeakSet[Saved] = weakref.WeakSet()
    most = 0

    def pack(tensor: Tensor) -> Saved:
        nonlocal most
        saved = Saved(tensor)
        alive.add(saved)
        most = max(most, sum(each.tensor.numel() for each in alive))
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        direct.loss(tiny(direct, cfg), batch(), stream(0, "loss"), cfg)
    return most


@pytest.mark.parametrize("gradient_by", ["autograd", "discrete", "continuous"])
def test_an_adjoint_holds_the_graph_of_one_call_whatever_the_steps(gradient_by: str) -> None:
    few, many = (
        most_kept(replace(CONFIG, nfe=nfe, route=last(nfe), gradient=gradient_by, beta_kl=0.3)) for nfe in (4, 16)
    )
    assert many / few == (pytest.approx(4, rel=0.1) if gradient_by == "autograd" else 1)


def job(**rewards: dict[str, object]) -> Job:
    section = {}
    for name in ("common", "direct"):
        section |= yaml.safe_load((PARAMS / f"{name}.yaml").read_text())
    section = {key: value for key, value in section.items() if key not in ("defaults", "replicates")}
    return Job(stage="rl", arm="it", seed=0, section={**section, "rewards": rewards}, inputs={})


def test_a_reward_without_a_gradient_is_refused_before_any_work() -> None:
    soft = {"kind": "soft_verifier", "weight": 1.0, "attributes": {"each": 1.0}, "softness": 0.1}
    hard = {"kind": "jpeg", "weight": 1.0, "quality": 90}
    with pytest.raises(
        ValueError,
        match=r"rewards\.small\.kind: direct descends the reward's own gradient, and this has none; soft_ver",
    ):
        rl.configure(job(right=soft, small=hard))
    made = rl.configure(job(right=soft))
    assert rl.plan(made, job(right=soft)) == [{"id": "all"}], "not sent to reward workers, whence no gradient returns"


def test_more_steps_than_there_are_are_refused() -> None:
    section = {**asdict(CONFIG), "route": {"name": "early", "steps": 5}}
    with pytest.raises(ValueError, match=r"route.steps=5 exceeds the 4 steps of nfe; lower it, or raise nfe"):
        check(direct.Config, section, "rl.arms.direct")
