"""A network that is asked for several times at once: how it begins, what its rows know of each other, its folder."""

import copy

import pytest
import torch
from torch import Tensor, nn

from stages.core.rng import stream
from stages.core.spec import even
from stages.models import Student, load, save, space_of
from stages.models.network import seeded_teacher
from stages.models.policy import made as policy_made
from stages.models.sketch import trained
from stages.models.temporal import Convolution
from stages.models.text import Clip
from stages.samplers.program import program
from stages.samplers.prompted import Prompted
from stages.samplers.student import Noise, draw
from tests.models.stock import stock_images
from tests.models.test_second_time import PROMPTS, ROWS, SIZES, SPACE

F64 = torch.float64
CHOICE = {"name": "states", "shares": [0.75, 0.5, 0.25, 0.0], "modes": 2}
COUNT = 4


@pytest.fixture(params=SIZES, scope="module")
def net(request: pytest.FixtureRequest) -> nn.Module:
    made = seeded_teacher(0, SIZES[request.param], SPACE.shape, ["", *PROMPTS], Clip(kind="clip", num_layers=1))
    for weight in (made.last_layer[0].weight, made.last_layer[0].bias):
        nn.init.normal_(weight, std=0.3, generator=stream(0, "test"))  # starts at zero
    return made.eval().requires_grad_(False)


def asked(net: nn.Module) -> nn.Module:
    """A copy that answers a trajectory, as the network alone does."""
    made = copy.deepcopy(net)
    made.add_policy(CHOICE, 0)
    return made.requires_grad_(False)


def learnt(net: nn.Module) -> nn.Module:
    """The same with states that differ, and rows that know of each other."""
    made, rng = asked(net), stream(1, "test")
    made.body.which.data += torch.randn(made.body.which.shape, generator=rng)
    for convolution in made.body.convolutions:
        convolution.weight.data += 0.1 * torch.randn(convolution.weight.shape, generator=rng)
    return made.eval().requires_grad_(False)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, *SPACE.shape, generator=stream(0, "x")), torch.tensor([1.0, 0.4]), ROWS


def rows_of(net: nn.Module) -> Tensor:
    """[B, count, C, H, W]."""
    return net.fields(*inputs()).unflatten(1, (COUNT, -1))


# The policy


def on_lines(states: list[float], nodes: list[float], share: float) -> float:
    """Of a trajectory that is 0 at 1."""
    for (upper, above), (lower, below) in zip(
        zip(nodes, states, strict=True), zip(nodes[1:], states[1:], strict=False), strict=False
    ):
        if lower <= share <= upper:
            return above + (below - above) * (upper - share) / (upper - lower)
    raise AssertionError(share)


@pytest.mark.parametrize(("t", "until"), [(0.8, 0.6), (0.8, 0.0), (0.7, 0.13), (0.33, 0.31), (0.4, 0.4)])
def test_between_the_states_lie_straight_lines(t: float, until: float) -> None:
    policy, t_s = policy_made(CHOICE), torch.tensor([0.8], dtype=F64)
    fields = torch.randn(1, COUNT, 1, 1, generator=stream(0, "fields"), dtype=F64)
    x_s = torch.full((1, 1, 1, 1), 0.3, dtype=F64)
    nodes = [1.0, *CHOICE["shares"]]
    states = [0.0, *(-(1 - share) * 0.8 * u for share, u in zip(nodes[1:], fields.flatten().tolist(), strict=True))]
    found = policy.average(fields, x_s, t_s, x_s, *(torch.tensor([each], dtype=F64) for each in (t, until)))
    low = until if until < t else t - 1e-7
    slope = (on_lines(states, nodes, t / 0.8) - on_lines(states, nodes, low / 0.8)) / (t - low)
    assert found.item() == pytest.approx(slope, rel=1e-5)


def test_with_one_state_it_is_one_step() -> None:
    policy = policy_made({"name": "states", "shares": [0.0], "modes": 1})
    fields, x = torch.randn(2, 1, 2, 2, generator=stream(0, "f")), torch.zeros(2, 1, 2, 2)
    one, none = torch.ones(2), torch.zeros(2)
    torch.testing.assert_close(policy.velocity(fields, x, one, none), fields)
    torch.testing.assert_close(policy.velocity(fields, x, one), fields)


# The convolution


def test_it_is_a_product_in_the_fourier_series_of_the_first_modes() -> None:
    layer, x = Convolution(3, 2), torch.randn(2 * COUNT, 3, 2, 2, generator=stream(0, "x"))
    torch.testing.assert_close(layer(x, COUNT), x, rtol=0, atol=0)
    layer.weight.data = torch.randn(layer.weight.shape, generator=stream(1, "x"))
    rows, kept = x.unflatten(0, (2, COUNT)).double(), torch.view_as_complex(layer.weight.detach().double())
    places = torch.arange(COUNT, dtype=F64)
    kernel = torch.zeros(COUNT, 3, 3, dtype=F64)  # what a mode adds at so many times' distance
    for mode in range(2):
        wave = torch.polar(torch.ones_like(places), 2 * torch.pi * mode * places / COUNT)
        kernel += (1 if mode == 0 else 2) * (wave[:, None, None] * kept[mode]).real / COUNT
    added = torch.zeros_like(rows)
    for i in range(COUNT):
        for j in range(COUNT):
            added[:, i] += torch.einsum("bchw,cd->bdhw", rows[:, j], kernel[(i - j) % COUNT])
    expected = rows + nn.functional.leaky_relu(added)
    torch.testing.assert_close(layer(x, COUNT), expected.flatten(0, 1).float(), rtol=1e-4, atol=1e-4)


# Networks


def test_it_begins_as_the_networks_own_velocity(net: nn.Module) -> None:
    before, made, (x, t, cond) = torch.get_rng_state(), copy.deepcopy(net), inputs()
    made.add_policy(CHOICE, 0)
    assert torch.equal(before, torch.get_rng_state())
    v = net(x, t, cond)
    torch.testing.assert_close(rows_of(made), v[:, None].expand(-1, COUNT, -1, -1, -1))
    torch.testing.assert_close(made(x, t, cond, until=torch.zeros(2)), v)
    torch.testing.assert_close(made.features(x, t, cond), net.features(x, t, cond))
    kept = made.policy
    made.add_policy(CHOICE, 9)
    assert made.policy is kept, "a chain of students goes on with it"
    assert Prompted(made, cond).passes == COUNT
    assert Prompted(made, cond, guidance=2.0).passes == 2 * COUNT


def test_rows_are_told_apart_and_know_of_each_other(net: nn.Module) -> None:
    made = learnt(net)
    found = rows_of(made)
    assert (found[:, 1:] - found[:, :-1]).abs().flatten(2).amax(dim=2).min() > 1e-3
    made.body.which.data[0] += 1
    assert (rows_of(made) - found).abs().flatten(2).amax(dim=2).min() > 1e-4, (
        "each row has changed, not the first alone"
    )
    alone = learnt(net)
    for convolution in alone.body.convolutions:
        convolution.weight.data.zero_()
    found = rows_of(alone)
    alone.body.which.data[0] += 1
    torch.testing.assert_close(rows_of(alone)[:, 1:], found[:, 1:])


def test_times_that_change_places_take_their_answers_along(net: nn.Module) -> None:
    """A convolution knows how far times are apart, and not which is the first."""
    made, turned = learnt(net), learnt(net)
    turned.body.which.data = made.body.which.data.roll(1, dims=0)
    torch.testing.assert_close(rows_of(turned), rows_of(made).roll(1, dims=1), rtol=1e-4, atol=1e-4)


def test_samples_know_nothing_of_each_other(net: nn.Module) -> None:
    made, (x, t, cond) = learnt(net), inputs()
    both = made.fields(x, t, cond)
    torch.testing.assert_close(made.fields(x[1:], t[1:], cond[1:]), both[1:], rtol=1e-4, atol=1e-4)


def test_all_that_it_adds_learns(net: nn.Module) -> None:
    made = learnt(net)
    made.body.requires_grad_(True)
    made(*inputs(), until=torch.zeros(2)).square().sum().backward()
    for name, weight in made.body.named_parameters():
        if not name.startswith("inner"):
            assert weight.grad is not None, name
            assert weight.grad.any(), name


def test_a_sketch_of_it_has_its_weights_and_its_shapes() -> None:
    for size in SIZES.values():
        drawn = trained(size, SPACE.shape).build()
        drawn.add_policy(CHOICE, 0)
        assert drawn.body.which.is_meta
        one = torch.zeros(3, device="meta")
        cond = torch.zeros(3, 1, dtype=torch.int64, device="meta")
        assert drawn(torch.zeros(3, *SPACE.shape, device="meta"), one, cond, until=one).shape == (3, *SPACE.shape)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "spec", [even(1, rule="flow_map", depth=0.0), even(2, rule="flow_map", depth=0.5, guidance=2.0)]
)
def test_stock_diffusers_gives_our_images(net: nn.Module, spec, tmp_path) -> None:
    ours = learnt(net)
    save(tmp_path, Student(ours, spec, SPACE, net.text.frozen()), program(spec))
    noise, again, (x, t, cond) = Noise(5, "export"), load(tmp_path, PROMPTS), inputs()
    assert again.net.policy.choice == CHOICE
    assert space_of(tmp_path).shape == SPACE.shape
    torch.testing.assert_close(again.net.fields(x, t, cond), ours.fields(x, t, cond), rtol=1e-4, atol=1e-4)
    images = draw(again, ROWS, noise)
    theirs = stock_images(
        tmp_path, PROMPTS, noise, SPACE.shape, range(1, spec.num_steps) if spec.rule.get("depth") else ()
    )
    torch.testing.assert_close(theirs, images, atol=1e-4, rtol=1e-4)
