"""A second time begins as no change, is saved with its network, and is read by the folder's own pipeline."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.rng import stream
from stages.core.spec import even
from stages.models import Student, load, save
from stages.models.network import seeded_teacher
from stages.models.space import Pixels
from stages.models.text import Clip
from stages.models.transformer import TransformerConfig
from stages.models.unet import UNetConfig
from stages.samplers.program import program
from stages.samplers.student import Noise, draw
from tests.models.stock import stock_images

PROMPTS = ["a bold left-slanted 7", "a thin upright 3"]
ROWS = torch.tensor([[1], [2]])
SIZES = {
    "transformer": TransformerConfig(kind="transformer", width=16, num_layers=2, num_heads=2, patch_size=2),
    "unet": UNetConfig(
        kind="unet", channels=(8, 16), attends=(True, False), layers_per_level=1, head_dim=4, norm_groups=4, fold=2,
        text_width=8,
    ),
}  # fmt: skip
SPACE = Pixels((1, 8, 8))


@pytest.fixture(params=SIZES, scope="module")
def net(request: pytest.FixtureRequest) -> nn.Module:
    made = seeded_teacher(0, SIZES[request.param], SPACE.shape, ["", *PROMPTS], Clip(kind="clip", num_layers=1))
    last = made.body.proj_out if request.param == "transformer" else made.body.conv_out
    nn.init.normal_(last.weight, std=0.3, generator=stream(0, "test"))  # starts at zero
    return made.eval().requires_grad_(False)


def learnt(net: nn.Module) -> nn.Module:
    """A copy whose second time says something."""
    made = copy.deepcopy(net)
    made.add_second_time(0)
    nn.init.normal_(made.second_time.outer.weight, std=0.3, generator=stream(1, "test"))
    return made.requires_grad_(False)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, *SPACE.shape, generator=stream(0, "x")), torch.tensor([0.9, 0.4]), ROWS


def test_it_begins_as_no_change_from_its_seed_alone(net: nn.Module) -> None:
    before = torch.get_rng_state()
    made, again = copy.deepcopy(net), copy.deepcopy(net)
    made.add_second_time(3)
    again.add_second_time(3)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(made.second_time.inner.weight, again.second_time.inner.weight)
    kept = made.second_time
    made.add_second_time(4)
    assert made.second_time is kept, "a chain of students goes on with it"
    x, t, cond = inputs()
    assert torch.equal(made(x, t, cond, until=t / 2), net(x, t, cond))


def test_who_does_not_name_it_gets_the_velocity_at_the_first(net: nn.Module) -> None:
    made, (x, t, cond) = learnt(net), inputs()
    assert torch.equal(made(x, t, cond), made(x, t, cond, until=t))
    assert not torch.allclose(made(x, t, cond), made(x, t, cond, until=t / 2))
    assert not torch.allclose(made.features(x, t, cond), net.features(x, t, cond)), "features see it too"


def test_a_network_of_one_time_is_asked_for_no_average(net: nn.Module) -> None:
    x, t, cond = inputs()
    with pytest.raises(ValueError, match=r"the network has one time, .* the sampler rule flow_map is for students"):
        net(x, t, cond, until=t)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "spec",
    [
        even(2, rule="flow_map", depth=0.0),
        even(3, rule="flow_map", depth=0.5, guidance=2.0),
        even(2, guidance=1.5),
        even(1, rule="flow_map", depth=0.0),
    ],
)
def test_stock_diffusers_gives_our_images_to_the_last_bit(net: nn.Module, spec, tmp_path) -> None:
    save(tmp_path, Student(learnt(net), spec, SPACE, net.text.frozen()), program(spec))
    noise, again = Noise(5, "export"), load(tmp_path, PROMPTS)
    x, t, cond = inputs()
    torch.testing.assert_close(again.net(x, t, cond, until=t / 3), learnt(net)(x, t, cond, until=t / 3))
    ours = draw(again, ROWS, noise)
    theirs = stock_images(
        tmp_path, PROMPTS, noise, SPACE.shape, range(1, spec.num_steps) if spec.rule.get("depth") else ()
    )
    last_bits = 1e-5 if net.component == "unet" else 0.0  # whose convolutions are laid out otherwise there
    torch.testing.assert_close(theirs, ours, atol=last_bits, rtol=last_bits)
    plain = replace(again, spec=even(2))
    if spec.num_steps == 2 and spec.rule["name"] == "flow_map":
        assert not torch.allclose(draw(plain, ROWS, noise), ours), "the average is another velocity"
