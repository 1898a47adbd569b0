"""Policies: closed forms of their trajectories, how a network comes to answer one, and the folder's own pipeline."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.core.path import data_from_velocity
from stages.core.rng import stream
from stages.core.spec import even
from stages.models import Student, load, save
from stages.models.network import seeded_teacher
from stages.models.policy import made, posterior_mean
from stages.models.sketch import trained
from stages.models.space import Pixels
from stages.models.text import Clip
from stages.samplers.program import program
from stages.samplers.student import Noise, draw
from tests.models.stock import stock_images
from tests.models.test_second_time import PROMPTS, ROWS, SIZES
from tests.training.gaussian import GaussianAverage, tokens

pytestmark = pytest.mark.slow

F64 = torch.float64
DX = {"name": "dx", "points": 4, "span": 0.5}
MIXTURE = {"name": "gmflow", "components": 3, "substeps": 6}
POLICIES = {"dx": DX, "gmflow": MIXTURE}
SPACE = Pixels((2, 8, 8))  # channels, so that an order of theirs shows


def times(*values: float) -> list[Tensor]:
    return [torch.tensor([value], dtype=F64) for value in values]


def fields_of(choice: dict, channels: int = 1, n: int = 1) -> tuple[Tensor, Tensor]:
    """Fields and x_s."""
    rng = stream(0, "fields")
    shape = (n, made(choice).channels(channels), 2, 2)
    fields = torch.randn(shape, generator=rng, dtype=F64)
    return fields, torch.randn((n, channels, 2, 2), generator=rng, dtype=F64)


# DX


def followed(data: list[float], grid: list[float], x: float, t: float, until: float, steps: int) -> float:
    """Midpoint steps through straight lines between data at the times of a grid."""
    h = (t - until) / steps
    at = lambda time: np.interp(time, grid[::-1], data[::-1])  # noqa: E731
    for _ in range(steps):
        middle = x - h / 2 * (x - at(t)) / t
        x -= h * (middle - at(t - h / 2)) / (t - h / 2)
        t -= h
    return x


@pytest.mark.parametrize(("t_s", "t", "until"), [(0.8, 0.8, 0.35), (0.8, 0.62, 0.61), (0.9, 0.5, 0.2), (0.3, 0.3, 0.1)])
def test_straight_lines_are_followed_exactly(t_s: float, t: float, until: float) -> None:
    policy, (fields, x_s) = made(DX), fields_of(DX)
    x, h = torch.full_like(x_s, 0.4), t - until
    average = policy.average(fields, x_s, *times(t_s), x, *times(t, until))
    grid = list(t_s - min(0.5, t_s) * np.linspace(0, 1, 4))  # below it, the last of the data
    for row, column in ((0, 0), (1, 0)):
        data = (x_s[0, 0, row, column] - t_s * fields[0, :, row, column]).tolist()
        end = followed(data, grid, 0.4, t, until, 4000)
        assert (x - h * average)[0, 0, row, column].item() == pytest.approx(end, abs=1e-6)


def test_the_policy_has_a_group_of_jumps_and_both_ends() -> None:
    policy, (fields, x_s) = made(DX), fields_of(DX, channels=2)
    t_s, a, b, c = times(0.8, 0.8, 0.55, 0.31)
    once = x_s - 0.49 * policy.average(fields, x_s, t_s, x_s, a, c)
    half = x_s - 0.25 * policy.average(fields, x_s, t_s, x_s, a, b)
    torch.testing.assert_close(half - 0.24 * policy.average(fields, x_s, t_s, half, b, c), once)
    at_once = policy.average(fields, x_s, t_s, x_s, t_s, t_s)
    torch.testing.assert_close(at_once, fields[:, :2], rtol=0, atol=1e-5)
    assert torch.equal(policy.velocity(fields, x_s, t_s), fields[:, :2])
    end = x_s - 0.8 * policy.velocity(fields, x_s, t_s, *times(0.0))
    torch.testing.assert_close(end, x_s - 0.8 * fields[:, -2:], rtol=0, atol=1e-6)  # the last data that it expects


def test_data_on_a_line_needs_two_fields_and_one_is_straight() -> None:
    shares = made({"name": "dx", "points": 2, "span": 0.5}).shares(*times(0.9, 0.7, 0.6))
    at = 2 * (0.9 - (math.log(0.7 / 0.6) / (1 / 0.6 - 1 / 0.7)))  # where the mean over 1 / t lies on the line
    torch.testing.assert_close(shares, torch.tensor([[1 - at, at]], dtype=F64))
    one = {"name": "dx", "points": 1, "span": 0.25}
    fields, x_s = fields_of(one)
    torch.testing.assert_close(made(one).velocity(fields, x_s, *times(0.5, 0.3)), fields)


# GMFlow


def test_one_gaussian_solves_gaussian_data() -> None:
    """N(1, .25): asked at t_s = .75, x_s = .7, it gives D at any (x, t) below, and the trajectory of the flow."""
    x_s, (t_s,) = torch.full((1, 1, 1, 1), 0.7, dtype=F64), times(0.75)
    slope = 0.25 * 0.25 / (0.25**2 * 0.25 + 0.75**2)
    mean, variance = 1 + slope * (0.7 - 0.25), 0.25 - slope * 0.25 * 0.25  # of the data given x_s
    means, spread = torch.full((1, 1, 1, 1, 1), mean, dtype=F64), torch.full((1, 1, 1, 1, 1), variance, dtype=F64)
    nothing, x = torch.zeros_like(means), torch.full((1, 1, 1, 1), 0.3, dtype=F64)
    for t, expected in ((0.5, 0.92), (0.2, 0.5)):
        found = posterior_mean((means, spread, nothing), x_s, t_s, x, *times(t))
        assert found.item() == pytest.approx(expected, abs=1e-12)
    fields = torch.cat(
        [(x_s - mean) / 0.75, torch.zeros_like(x_s), torch.full_like(x_s, math.log(variance) / 2)], dim=1
    )
    fields[:, 2] -= math.log(0.75)
    ends = []
    for substeps in (100, 200):
        policy = made({"name": "gmflow", "components": 1, "substeps": substeps})
        ends.append((x_s - 0.75 * policy.velocity(fields, x_s, t_s, *times(0.0))).item())
    exact = (x_s - 0.75 * GaussianAverage(1.0, 0.5)(x_s, t_s, tokens(1), until=times(0.0)[0])).item()
    errors = [abs(end - exact) for end in ends]
    assert errors[0] < 4e-3
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.1), "Euler's, and none of the policy's own"


def test_a_mixture_is_bayes_rule() -> None:
    """Two Gaussians given x_s: D at (x, t) is what weighing a fine grid of data by both densities gives."""
    means = torch.tensor([-0.8, 0.6], dtype=F64).reshape(1, 2, 1, 1, 1)
    logits = torch.tensor([0.3, -0.2], dtype=F64).reshape(1, 2, 1, 1, 1)
    variance = torch.full((1, 1, 1, 1, 1), 0.09, dtype=F64)
    x_s, x = (torch.full((1, 1, 1, 1), value, dtype=F64) for value in (0.5, 0.1))
    (t_s, t), data = times(0.9, 0.6), torch.linspace(-4, 4, 40001, dtype=F64)
    law = (logits.flatten()[:, None] - (data - means.flatten()[:, None]).square() / 0.18).logsumexp(dim=0)
    # of x given x0 and x_s nothing but what x_s lacks: N(x; (1-t) x0, t^2) over N(x_s; (1-t_s) x0, t_s^2)
    law = law - (0.1 - 0.4 * data).square() / (2 * 0.6**2) + (0.5 - 0.1 * data).square() / (2 * 0.9**2)
    expected = (law.softmax(dim=0) * data).sum().item()
    assert posterior_mean((means, variance, logits), x_s, t_s, x, t).item() == pytest.approx(expected, abs=1e-9)


def test_components_are_left_out_by_row_and_never_all() -> None:
    policy, (fields, x_s) = made(MIXTURE), fields_of(MIXTURE, channels=2, n=2)
    gone = torch.tensor([[True, False, True], [True, True, True]])
    found = policy.without(fields, gone, 2)
    velocities = fields[:, :6].unflatten(1, (3, 2))
    torch.testing.assert_close(policy.first(found, x_s)[0], velocities[0, 1])
    assert torch.equal(found[1], fields[1])


# Networks


@pytest.fixture(params=SIZES, scope="module")
def net(request: pytest.FixtureRequest) -> nn.Module:
    made = seeded_teacher(0, SIZES[request.param], SPACE.shape, ["", *PROMPTS], Clip(kind="clip", num_layers=1))
    for kind in (made.last_layer[0].weight, made.last_layer[0].bias):
        nn.init.normal_(kind, std=0.3, generator=stream(0, "test"))  # starts at zero
    return made.eval().requires_grad_(False)


def learnt(net: nn.Module, choice: dict) -> nn.Module:
    """A copy whose fields differ."""
    made = copy.deepcopy(net)
    made.add_policy(choice, 0)
    for weight in (made.last_layer[0].weight, made.last_layer[0].bias):
        weight.data += 0.1 * torch.randn(weight.shape, generator=stream(1, "test"))
    return made.eval().requires_grad_(False)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, *SPACE.shape, generator=stream(0, "x")), torch.tensor([0.9, 0.4]), ROWS


@pytest.mark.parametrize("kind", POLICIES)
def test_it_begins_as_the_networks_own_velocity_from_its_seed_alone(net: nn.Module, kind: str) -> None:
    before, (made, again, other) = torch.get_rng_state(), (copy.deepcopy(net) for _ in range(3))
    for each, seed in ((made, 3), (again, 3), (other, 4)):
        each.add_policy(POLICIES[kind], seed)
    assert torch.equal(before, torch.get_rng_state())
    x, t, cond = inputs()
    fields, v = made.fields(x, t, cond), net(x, t, cond)
    assert torch.equal(fields, again.fields(x, t, cond))
    assert torch.equal(fields, other.fields(x, t, cond)) == (kind == "dx")
    copies = fields[:, : 2 * made.policy.copies].unflatten(1, (-1, 2))
    near = {"dx": 1e-5, "gmflow": 0.2}[kind]
    torch.testing.assert_close(copies, v[:, None].expand_as(copies), rtol=0, atol=near)
    if kind == "gmflow":
        assert copies.std(dim=1, correction=0).mean() > 0.01, "components that are all one stay so"
        torch.testing.assert_close(fields[:, -1], torch.full_like(fields[:, -1], math.log(0.05)))
        assert not fields[:, 6:9].any()
        return
    torch.testing.assert_close(made(x, t, cond), v)
    torch.testing.assert_close(data_from_velocity(x, made(x, t, cond, until=t / 3), t), data_from_velocity(x, v, t))
    kept = made.policy
    made.add_policy(DX, 9)
    assert made.policy is kept, "a chain of students goes on with it"


def test_who_has_more_than_one_velocity_is_made_into_nothing_else(net: nn.Module) -> None:
    policied, timed, several = learnt(net, DX), copy.deepcopy(net), copy.deepcopy(net)
    timed.add_second_time(0)
    several.divide(2)
    for each, what in ((policied, "that answers a policy"), (timed, "of two times"), (several, "of 2 students")):
        with pytest.raises(ValueError, match=f"it starts from a model {what}, and is to answer another policy; start"):
            each.add_policy({**DX, "points": 5}, 0)
    with pytest.raises(ValueError, match="a model that answers a policy has one time; start a method of two times"):
        policied.add_second_time(0)
    with pytest.raises(ValueError, match="num_students=2: it starts from a model that answers a policy; set it to 1"):
        policied.divide(2)
    if hasattr(net, "opened"):
        with pytest.raises(ValueError, match="a network that answers a policy is not called block by block"):
            _ = policied.num_blocks


def test_a_sketch_of_it_has_its_weights() -> None:
    drawn = trained(SIZES["transformer"], SPACE.shape).build()
    before = sum(weight.numel() for weight in drawn.parameters())
    drawn.add_policy(DX, 0)
    rows = 2**2 * 2 * 3  # a patch's pixels, their channels, and three more fields
    assert sum(weight.numel() for weight in drawn.parameters()) - before == rows * (16 + 1)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize(
    "spec",
    [
        even(2, rule="flow_map", depth=0.0),
        even(3, rule="flow_map", depth=0.5, guidance=2.0),
        even(2, guidance=1.5),
        even(1, rule="flow_map", depth=0.0),
    ],
)
def test_stock_diffusers_gives_our_images_to_the_last_bit(net: nn.Module, kind: str, spec, tmp_path) -> None:
    save(tmp_path, Student(learnt(net, POLICIES[kind]), spec, SPACE, net.text.frozen()), program(spec))
    noise, again = Noise(5, "export"), load(tmp_path, PROMPTS)
    x, t, cond = inputs()
    assert again.net.policy.choice == POLICIES[kind]
    torch.testing.assert_close(
        again.net(x, t, cond, until=t / 3), learnt(net, POLICIES[kind])(x, t, cond, until=t / 3), rtol=1e-4, atol=1e-4
    )
    assert again.space.shape == SPACE.shape
    ours = draw(again, ROWS, noise)
    theirs = stock_images(
        tmp_path, PROMPTS, noise, SPACE.shape, range(1, spec.num_steps) if spec.rule.get("depth") else ()
    )
    last_bits = 1e-4 if net.component == "unet" else 0.0  # whose convolutions are laid out otherwise there
    torch.testing.assert_close(theirs, ours, atol=last_bits, rtol=last_bits)
