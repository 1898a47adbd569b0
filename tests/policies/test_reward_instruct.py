"""Reward-Instruct against the chain rule on a Gaussian, finite differences, and where the graph is cut."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.rng import stream
from stages.core.types import World
from stages.models.space import Points
from stages.policies import reward_instruct
from tests.policies.groups import PIXELS, batch, gradient
from tests.policies.test_direct import Watched
from tests.training.gaussian import GaussianVelocity, ShiftedVelocity, tokens
from tests.training.tiny import TinyNet

CONFIG = reward_instruct.Config(
    method="reward_instruct", nfe=4, noise_level=0.0, route="whole", guidance_weight=0.0, num_updates=1, beta=0.0,
    student_lr=1e-4,
)  # fmt: skip
LINE = Points((1, 1, 1), torch.float64)


def linear(scale: float = 1.0, seed: int = 0) -> object:
    """r.x of one direction r, as the only reward."""
    slope = scale * torch.randn(1, 1, 4, 4, dtype=torch.float64, generator=stream(seed, "slope"))
    return lambda x, _cond: (slope * x).flatten(1).sum(dim=1, keepdim=True)


def world(parts: object, weights: tuple[float, ...] = (1.0,), **nets: nn.Module) -> World:
    roles = {"student": TinyNet(0), "start": TinyNet(1), "teacher": TinyNet(2)} | nets
    roles["start"].requires_grad_(False)
    return World(nets=roles, space=PIXELS, parts=parts, weights=weights)  # type: ignore[arg-type]


def value(nets: World, cfg: reward_instruct.Config, seed: int = 0) -> Tensor:
    return reward_instruct.loss(nets, batch(), stream(seed, "loss"), cfg)[0]


def gaussian(shift: float) -> World:
    """Data N(1, .25), a generator that can move by one shift of its velocity, and r = 7 x."""
    student = ShiftedVelocity(GaussianVelocity(1.0, 0.5))
    student.shift.data.fill_(shift)
    start = ShiftedVelocity(GaussianVelocity(1.0, 0.5)).requires_grad_(False)
    parts = lambda x, _cond: 7 * x.flatten(1)  # noqa: E731
    return World(nets={"student": student, "start": start, "teacher": start}, space=LINE, parts=parts)


@pytest.mark.parametrize(("nfe", "slope"), [(1, 1.0), (4, 0.7558212)])
def test_it_rests_where_the_rewards_slope_is_twice_beta_times_the_distance(nfe: int, slope: float) -> None:
    """A unit direction through the chain of Euler's steps, of known slope by a shift: theta = theta_0 + g / 2b."""
    cfg = replace(CONFIG, nfe=nfe, beta=0.4)
    for share, sign in ((1.0, 0.0), (0.5, 1.0), (1.5, -1.0)):
        nets = gaussian(-share * slope / (2 * cfg.beta))
        found = reward_instruct.loss(nets, {"cond": tokens(5)}, stream(0, "loss"), cfg)[0]
        (left,) = torch.autograd.grad(found, nets.nets["student"].shift)
        assert left.item() == pytest.approx(sign * slope / 2, abs=1e-6)


@pytest.mark.parametrize("route", ["whole", "one"])
def test_the_range_of_a_reward_counts_for_nothing_and_its_weight_for_all(route: str) -> None:
    cfg = replace(CONFIG, route=route, noise_level=0.7)
    both = lambda scale: lambda x, c: torch.cat([linear()(x, c), linear(scale, 1)(x, c)], dim=1)  # noqa: E731
    small, large, doubled = (
        gradient(value(nets := world(both(scale), weights), cfg), nets.nets["student"])
        for scale, weights in ((1.0, (1.0, 0.5)), (100.0, (1.0, 0.5)), (100.0, (2.0, 1.0)))
    )
    torch.testing.assert_close(large, small)
    torch.testing.assert_close(doubled, 2 * small)


def test_through_all_calls_it_is_the_finite_difference_of_the_sample_along_the_direction() -> None:
    cfg, nets, size = replace(CONFIG, noise_level=0.8, beta=0.3), world(linear()), 1e-6
    student = nets.nets["student"]
    found = gradient(value(nets, cfg), student)
    direction = torch.randn(found.shape, dtype=torch.float64, generator=stream(0, "direction"))
    start = nn.utils.parameters_to_vector(student.parameters()).detach().clone()

    def at(step: float) -> float:
        nn.utils.vector_to_parameters(start + step * direction, student.parameters())
        return value(nets, cfg).item()

    assert float(found @ direction) == pytest.approx((at(size) - at(-size)) / (2 * size), rel=1e-6)


def test_nothing_before_the_drawn_step_has_a_gradient() -> None:
    ends = set()
    for seed in range(16):
        student = Watched()
        value(world(linear(), student=student, start=Watched()), replace(CONFIG, route="one"), seed)
        learns = [learnt for _, learnt, _ in student.seen]
        assert learns == [False] * (len(learns) - 1) + [True]
        assert not student.seen[-1][2], "its input is a leaf"
        ends.add(student.seen[-1][0])
    assert ends == {1.0, 0.75, 0.5, 0.25}


def test_of_one_call_both_routes_are_the_same() -> None:
    nets, cfg = world(linear()), replace(CONFIG, nfe=1, noise_level=0.5)
    assert torch.equal(value(nets, cfg), value(nets, replace(cfg, route="one")))


def test_fresh_noise_keeps_a_steps_variance_and_its_first_part() -> None:
    n, eta = 100_000, 0.6
    noise = torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=stream(0, "noise"))
    x, v = 0.3 * 2.0 + 0.7 * noise, noise - 2.0  # data is 2
    share = torch.full((n,), eta, dtype=torch.float64)
    made = reward_instruct.stepped(x, v, (0.7, 0.4), share, stream(0, "noises")) - 0.6 * 2.0
    assert made.square().mean().item() == pytest.approx(0.16, rel=0.02)
    assert (made * noise).mean().item() == pytest.approx(0.4 * 0.8, rel=0.02)
    plain = reward_instruct.stepped(x, v, (0.7, 0.4), 0 * share, stream(0, "noises"))
    torch.testing.assert_close(plain, x - 0.3 * v)


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 1.0), (0.25, 0.75), (3.0, -2.0)])
def test_implicit_guidance_is_a_reward_from_the_empty_prompt_to_the_prompt(weight: float, expected: float) -> None:
    """Prompt 1 lies below the empty prompt 0, and the reward asks for more: unit directions on a line are signs."""
    teacher = GaussianVelocity([0.8, 0.2], 0.5).requires_grad_(False)
    parts = lambda x, _cond: 5 * x.flatten(1)  # noqa: E731
    nets = World(nets={"teacher": teacher}, space=LINE, parts=parts)
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(-1, 1, 1, 1)
    cfg = replace(CONFIG, guidance_weight=weight)
    found, _ = reward_instruct.ascent(nets, x, tokens(6, 1), stream(0, "levels"), cfg)
    torch.testing.assert_close(found, torch.full_like(x, expected))


def test_the_distance_is_that_of_trained_weights_alone() -> None:
    nets = world(linear())
    nets.nets["student"].words.requires_grad_(False)
    mine, theirs = (dict(nets.nets[role].named_parameters()) for role in ("student", "start"))
    expected = sum((mine[name] - theirs[name]).square().sum() for name in mine if not name.startswith("words"))
    torch.testing.assert_close(reward_instruct.distance(nets), expected)


def test_where_training_began_stays() -> None:
    assert reward_instruct.roles(CONFIG)["start"].decay(1) == reward_instruct.roles(CONFIG)["start"].decay(999) == 1.0
