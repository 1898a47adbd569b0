"""A network that a model carries beside its own: saved with it, asked by the folder's own pipeline, refused in time."""

import copy

import pytest
import torch
from torch import nn

from stages.core.config import check
from stages.core.rng import stream
from stages.core.spec import SamplerSpec
from stages.models import Student, TextTable, load, save
from stages.models.network import seeded_build
from stages.models.transformer import TransformerConfig
from stages.samplers.program import program
from stages.samplers.spec import Sampler
from stages.samplers.student import Noise, draw
from stages.training.cost import Cost, Meter
from stages.training.networks import RoleNetwork
from tests.models.stock import stock_images
from tests.models.test_second_time import PROMPTS, ROWS, SIZES, SPACE, inputs, net

pytestmark = pytest.mark.slow

__all__ = ["net"]  # the fixture
SMALL = TransformerConfig(kind="transformer", width=8, num_layers=1, num_heads=2, patch_size=2)


def table(net: nn.Module) -> TextTable:
    prompts = ["", *PROMPTS]
    return TextTable(prompts, net.text.frozen().encode(prompts))


def reading(net: nn.Module) -> nn.Module:
    """A copy that looks prompts up, as one that was loaded does."""
    made = copy.deepcopy(net)
    del made.text
    made.text = table(net)
    return made


def other(net: nn.Module, channels: int = 1, size=SMALL) -> nn.Module:
    """That reads what `net` does."""
    made = seeded_build(5, size, (channels, *SPACE.shape[1:]), table(net))
    last = made.body.proj_out if size.kind == "transformer" else made.body.conv_out
    nn.init.normal_(last.weight, std=0.3, generator=stream(3, "test"))
    return made.eval().requires_grad_(False)


def carrying(net: nn.Module, companion: nn.Module) -> nn.Module:
    made = reading(net)
    made.add_companion(companion)
    return made


def stated(rule: dict, steps: int, **more: object) -> SamplerSpec:
    told = {"rule": rule, "schedule": {"name": "uniform", "steps": steps}, "guidance": 1.0}
    return check(Sampler, told | more, "sampler").spec


PLUS = {"name": "distillation_plus", "share": 0.4, "first": 2, "guidance": 2.0}
TURBO = {"name": "flow_turbo", "heun": 1, "refined": 2}
SAMPLED = {
    "renoise": (1, stated(PLUS | {"going_on": "renoise"}, 3), [4, 1, 5, 2]),
    "ddim": (1, stated(PLUS | {"going_on": "ddim"}, 3), [4, 5]),
    "stitched": (1, stated({"name": "dpmpp_2m"}, 4, guidance=1.5, field={"name": "t_stitch", "share": 0.5}), []),
    "refined": (2, stated(TURBO, 4, guidance=1.5), []),
    "sized": (2, stated({"name": "learned_variance"}, 3, guidance=1.5), [1, 2]),
}
"""Channels of the companion, a sampler that asks it, and the nodes that it draws noise for."""


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_stock_diffusers_gives_our_images_to_the_last_bit(net: nn.Module, name: str, tmp_path) -> None:
    channels, spec, nodes = SAMPLED[name]
    made, (x, t, cond) = carrying(net, other(net, channels)), inputs()
    save(tmp_path, Student(made, spec, SPACE, net.text.frozen()), program(spec))
    noise, again = Noise(5, "export"), load(tmp_path, PROMPTS)
    told = None if channels == 1 else x.flip(0)
    torch.testing.assert_close(again.net.beside(x, t, cond, told), made.beside(x, t, cond, told), rtol=1e-4, atol=1e-4)
    assert again.net.share_beside == made.share_beside < 1
    ours = draw(again, ROWS, noise)
    theirs = stock_images(tmp_path, PROMPTS, noise, SPACE.shape, nodes)
    last_bits = 1e-4 if net.component == "unet" else 0.0  # whose convolutions are laid out otherwise there
    torch.testing.assert_close(theirs, ours, atol=last_bits, rtol=last_bits)


def test_either_kind_is_carried_by_either_kind(net: nn.Module, tmp_path) -> None:
    spec = stated(PLUS | {"first": 1, "going_on": "ddim"}, 2)
    for kind, size in SIZES.items():
        made = carrying(net, other(net, 1, size))
        save(tmp_path / kind, Student(made, spec, SPACE, net.text.frozen()), program(spec))
        again = load(tmp_path / kind, PROMPTS).net
        assert again.companion.component == kind
        x, t, cond = inputs()
        torch.testing.assert_close(again.beside(x, t, cond), made.beside(x, t, cond), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(again.beside(x, t, cond), again(x, t, cond))


def test_what_carries_and_what_is_carried_is_one_network_of_velocities(net: nn.Module) -> None:
    made = carrying(net, other(net))
    with pytest.raises(ValueError, match="a model that carries one carries no other network; set companion to null"):
        made.add_companion(other(net))
    with pytest.raises(ValueError, match="a model that carries another is no companion; name a teacher of one time"):
        copy.deepcopy(net).add_companion(made)
    timed = copy.deepcopy(net)
    timed.add_second_time(0)
    with pytest.raises(ValueError, match="a model of two times is no companion"):
        copy.deepcopy(net).add_companion(timed)
    timed.add_companion(other(net))  # it answers averages, and its companion velocities
    several = reading(net)
    several.divide(2)
    with pytest.raises(ValueError, match="a model of 2 students carries no other network"):
        several.add_companion(other(net))
    with pytest.raises(ValueError, match="the model carries no other network, and its sampler asks for one"):
        net.beside(*inputs())


def test_a_new_one_is_told_two_samples_and_begins_from_its_seed_alone(net: nn.Module) -> None:
    x, t, cond = inputs()
    first, second = reading(net), reading(net)
    before = torch.get_rng_state()
    for made in (first, second):
        made.add_new_companion(SMALL, SPACE.shape, 3)
        nn.init.ones_(made.companion.body.proj_out.bias)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.beside(x, t, cond, x), second.beside(x, t, cond, x))
    assert first.beside(x, t, cond, x).shape == x.shape
    nobody = reading(net)
    nobody.text.features = {name: rows.to("meta") for name, rows in nobody.text.features.items()}
    nobody.to("meta").add_new_companion(SMALL, SPACE.shape, 3)
    assert nobody.companion.body.device.type == "meta", "for who only counts"
    with pytest.raises(ValueError, match="a model that carries one carries no other network"):
        first.add_new_companion(SMALL, SPACE.shape, 3)


def test_a_loss_s_calls_of_it_are_counted_as_a_part(net: nn.Module) -> None:
    meter = Meter(["student"])
    student = RoleNetwork(carrying(net, other(net).requires_grad_(True)), "student", meter)
    x, t, cond = inputs()
    student.beside(x, t, cond).square().mean().backward()
    counted = Cost.of(meter.names, meter.take(), heads=()).networks["student"]
    assert {kind: count for kind, count in counted.items() if count} == {"forward_part": 2, "backward_part": 2}
    assert all(p.grad is None for p in student.net.body.parameters())
