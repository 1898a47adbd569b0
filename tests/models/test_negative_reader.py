"""A reader of negative prompts begins as no change, cancels where it should, and travels with its network."""

import copy

import pytest
import torch
from torch import Tensor, nn

from stages.core.rng import stream
from stages.core.spec import SamplerSpec, even
from stages.models import Student, load, save
from stages.models.negative_reader import Look, readers
from stages.models.network import seeded_build
from stages.models.transformer import TransformerConfig
from stages.samplers.program import program
from stages.samplers.prompted import Prompted
from stages.samplers.student import Noise, draw
from tests.models.stock import stock_images
from tests.models.test_companion import other, reading
from tests.models.test_second_time import PROMPTS, ROWS, SPACE, inputs, net
from tests.training.words import table

pytestmark = pytest.mark.slow

__all__ = ["net"]  # the fixture
NEGATIVE = "a bold left-slanted 3"
OTHERS = ROWS.flip(0)


def learnt(net: nn.Module) -> nn.Module:
    """A copy that says something of the negative prompt, in attention and of the whole."""
    made, rng = copy.deepcopy(net), stream(1, "test")
    made.add_negative_reader(0)
    for look in made.negative_reader.looks:
        nn.init.normal_(look.alpha, generator=rng)
    nn.init.normal_(made.negative_reader.whole.outer.weight, std=0.5, generator=rng)
    return made.requires_grad_(False)


def test_it_begins_as_no_change_from_its_seed_alone(net: nn.Module) -> None:
    before = torch.get_rng_state()
    made, again = copy.deepcopy(net), copy.deepcopy(net)
    made.add_negative_reader(3)
    again.add_negative_reader(3)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(made.negative_reader.whole.inner.weight, again.negative_reader.whole.inner.weight)
    kept = made.negative_reader
    made.add_negative_reader(4)
    assert made.negative_reader is kept, "a chain of students goes on with it"
    x, t, cond = inputs()
    assert torch.equal(made(x, t, cond, negative=OTHERS), net(x, t, cond))
    assert torch.equal(made.features(x, t, cond), net.features(x, t, cond))


def test_both_of_its_parts_say_something_in_every_layer(net: nn.Module) -> None:
    x, t, cond = inputs()
    whole = learnt(net)
    assert len(whole.negative_reader.looks) == len(readers(net.body)) >= 2
    places = [*range(len(whole.negative_reader.looks)), None]
    for place in places:
        made = learnt(net)
        weights = [look.alpha for look in made.negative_reader.looks]
        for number, weight in enumerate([*weights, made.negative_reader.whole.outer.weight]):
            if number != (len(weights) if place is None else place):
                nn.init.zeros_(weight)
        assert not torch.allclose(made(x, t, cond, negative=OTHERS), net(x, t, cond)), place


def test_equal_prompts_cancel_exactly_and_who_names_none_is_led_away_from_the_empty_one(net: nn.Module) -> None:
    made, (x, t, cond) = learnt(net), inputs()
    assert torch.equal(made(x, t, cond, negative=cond), net(x, t, cond))
    assert torch.equal(made(x, t, 0 * cond), net(x, t, 0 * cond))
    assert torch.equal(made(x, t, cond), made(x, t, cond, negative=0 * cond))
    assert not torch.allclose(made(x, t, cond), net(x, t, cond))
    assert not torch.allclose(made.features(x, t, cond), net.features(x, t, cond))
    handles = [len(layer.to_q._forward_hooks) + len(layer.to_out[0]._forward_hooks) for layer in readers(made.body)]
    assert not any(handles), "what was added to a call goes with it"


@pytest.mark.parametrize("width", [8, 16, 32])
def test_nothing_is_nothing_to_the_last_bit_whatever_the_size(width: int) -> None:
    """Layers compute other last bits where what they are given is laid out otherwise in memory."""
    size = TransformerConfig(kind="transformer", width=width, num_layers=2, num_heads=2, patch_size=2)
    made = seeded_build(0, size, (1, 4, 4), table(["a", "b"]))
    nn.init.normal_(made.body.proj_out.weight, generator=stream(0, "test"))
    made.requires_grad_(False)  # as attention with a gradient may take another kernel
    x, t = torch.randn(2, 1, 4, 4, generator=stream(0, "x")), torch.tensor([0.9, 0.4])
    plain, fresh, equal = made(x, t, ROWS), copy.deepcopy(made), learnt(made)
    fresh.add_negative_reader(0)
    fresh.requires_grad_(False)
    assert torch.equal(fresh(x, t, ROWS, negative=OTHERS), plain)
    assert torch.equal(equal(x, t, ROWS, negative=ROWS), plain)


def test_an_answer_does_not_depend_on_who_else_is_in_the_batch(net: nn.Module) -> None:
    made, (x, t, cond) = learnt(net), inputs()
    both = made(x, t, cond, negative=OTHERS)
    torch.testing.assert_close(both[:1], made(x[:1], t[:1], cond[:1], negative=OTHERS[:1]), rtol=1e-4, atol=1e-4)
    loud = torch.cat([x[:1], 100 * x[1:]])
    torch.testing.assert_close(both[:1], made(loud, t, cond, negative=OTHERS)[:1], rtol=1e-4, atol=1e-4)


def test_what_it_sees_has_the_norm_of_what_was_there() -> None:
    look, rng = Look(8, 2, 4).requires_grad_(False), stream(0, "look")
    held, query = (scale * torch.randn(3, 5, 8, generator=rng) for scale in (2.0, 1.0))
    words = torch.randn(3, 6, 4, generator=rng)
    seen = look._seen(held, query, words)
    torch.testing.assert_close(seen.flatten(1).norm(dim=1), held.flatten(1).norm(dim=1))
    torch.testing.assert_close(look._seen(held, query, 7 * words[:, :1]), look._seen(held, query, words[:, :1]))
    nothing = look._seen(held, query, 0 * words)
    assert torch.equal(nothing, torch.zeros_like(held)), "of words that say nothing, nothing, and no NaN"


def test_a_sampler_tells_it_the_negative_prompt_with_guidance_and_without(net: nn.Module) -> None:
    made, (x, t, cond) = learnt(net), inputs()
    told = made(x, t, cond, negative=OTHERS)
    torch.testing.assert_close(Prompted(made, cond, negative=OTHERS)(x, t), told)
    torch.testing.assert_close(Prompted(made, cond, negative=OTHERS).plain(x, t), told)
    torch.testing.assert_close(Prompted(made, cond)(x, t), made(x, t, cond))
    without = net(x, t, OTHERS)  # which is led away from itself
    guided = Prompted(made, cond, 3.0, OTHERS)
    torch.testing.assert_close(guided(x, t), without + 3 * (told - without), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(guided.take(torch.tensor([1]))(x[1:], t[1:]), guided(x, t)[1:], rtol=1e-4, atol=1e-4)


SPECS = [even(2), even(2, guidance=1.5), even(2, rule="heun")]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("negative", [NEGATIVE, None])
@pytest.mark.parametrize("spec", SPECS, ids=["euler", "guided", "heun"])
def test_stock_diffusers_gives_our_images_to_the_last_bit(net, spec: SamplerSpec, negative, tmp_path) -> None:
    save(tmp_path, Student(learnt(net), spec, SPACE, net.text.frozen()), program(spec))
    noise, again = Noise(5, "export"), load(tmp_path, PROMPTS, negative=negative)
    away = None if negative is None else torch.full_like(ROWS, 3)
    ours = draw(again, ROWS, noise, negative=away)
    theirs = stock_images(tmp_path, PROMPTS, noise, SPACE.shape, negative_prompt=negative)
    last_bits = 1e-4 if net.component == "unet" else 0.0  # whose convolutions are laid out otherwise there
    torch.testing.assert_close(theirs, ours, atol=last_bits, rtol=last_bits)
    if negative is not None:
        assert not torch.allclose(theirs, stock_images(tmp_path, PROMPTS, noise, SPACE.shape))


def test_it_is_read_again_as_it_was(net: nn.Module, tmp_path) -> None:
    made, (x, t, cond) = learnt(net), inputs()
    save(tmp_path, Student(made, even(2), SPACE, net.text.frozen()))
    again = load(tmp_path, PROMPTS).net
    answers: list[Tensor] = [each(x, t, cond, negative=OTHERS) for each in (again, made)]
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-4)
    save(tmp_path / "twice", Student(again, even(2), SPACE, net.text.frozen()))
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        first, second = ((folder / "negative_reader" / name).read_bytes() for folder in (tmp_path, tmp_path / "twice"))
        assert first == second


def test_guidance_of_any_model_leads_away_from_it_in_the_exported_pipeline(net: nn.Module, tmp_path) -> None:
    save(tmp_path, Student(net, even(2, guidance=2.0), SPACE, net.text.frozen()))
    again, noise = load(tmp_path, PROMPTS, negative=NEGATIVE), Noise(5, "export")
    theirs = stock_images(tmp_path, PROMPTS, noise, SPACE.shape, negative_prompt=NEGATIVE)
    last_bits = 1e-4 if net.component == "unet" else 0.0
    ours = draw(again, ROWS, noise, negative=torch.full_like(ROWS, 3))
    torch.testing.assert_close(theirs, ours, atol=last_bits, rtol=last_bits)


def test_it_is_beside_one_network_of_velocities_alone(net: nn.Module) -> None:
    made, (x, t, cond) = learnt(net), inputs()
    with pytest.raises(ValueError, match=r"the network reads no negative prompt, and was told one; .*speed_up_net"):
        net(x, t, cond, negative=OTHERS)
    timed, told, several = copy.deepcopy(net), copy.deepcopy(net), reading(net)
    timed.add_second_time(0)
    with pytest.raises(ValueError, match="a model of two times reads no negative prompt of its own; start from"):
        timed.add_negative_reader(0)
    told.add_latent_variable(64, 0)
    with pytest.raises(ValueError, match="a model that is told noise reads no negative prompt"):
        told.add_negative_reader(0)
    several.divide(2)
    with pytest.raises(ValueError, match="a model of 2 students reads no negative prompt"):
        several.add_negative_reader(0)
    with pytest.raises(ValueError, match="a model that reads negative prompts has one time"):
        made.add_second_time(0)
    with pytest.raises(ValueError, match="a model that reads negative prompts is no companion"):
        copy.deepcopy(net).add_companion(made)
    made.add_companion(other(net))  # as a student of one network may carry its teacher
    assert made.beside(x, t, cond).shape == x.shape
    if net.component == "transformer":
        with pytest.raises(ValueError, match="a network that reads negative prompts is not called block by block"):
            _ = made.num_blocks
