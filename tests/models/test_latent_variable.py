"""A latent variable begins as no change, is saved with its network, and is drawn by the folder's own pipeline."""

import copy
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from stages.core.rng import stream
from stages.core.spec import even
from stages.models import Student, load, save
from stages.samplers.program import program
from stages.samplers.restored import restored
from stages.samplers.student import Noise, draw
from tests.models.stock import stock_images
from tests.models.test_second_time import PROMPTS, ROWS, SPACE, net

pytestmark = pytest.mark.slow

__all__ = ["net"]  # the fixture
SIZE = 64


def learnt(net: nn.Module) -> nn.Module:
    """A copy whose noise says something."""
    made = copy.deepcopy(net)
    made.add_latent_variable(SIZE, 0)
    nn.init.normal_(made.latent_variable.outer.weight, std=0.5, generator=stream(1, "test"))
    return made.requires_grad_(False)


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, z = (torch.randn(2, *SPACE.shape, generator=stream(0, name)) for name in "xz")
    return x, torch.tensor([0.9, 0.4]), ROWS, z


def test_it_begins_as_no_change_from_its_seed_alone(net: nn.Module) -> None:
    before = torch.get_rng_state()
    made, again = copy.deepcopy(net), copy.deepcopy(net)
    made.add_latent_variable(SIZE, 3)
    again.add_latent_variable(SIZE, 3)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(made.latent_variable.inner.weight, again.latent_variable.inner.weight)
    kept = made.latent_variable
    made.add_latent_variable(SIZE, 4)
    assert made.latent_variable is kept, "a chain of students goes on with it"
    x, t, cond, z = inputs()
    assert torch.equal(made(x, t, cond, z=z), net(x, t, cond))


def test_every_row_has_its_own_and_who_names_none_gets_the_answer_for_none(net: nn.Module) -> None:
    made, (x, t, cond, z) = learnt(net), inputs()
    told = made(x, t, cond, z=z)
    assert not torch.allclose(told, made(x, t, cond, z=z.flip(0)))
    torch.testing.assert_close(told[:1], made(x[:1], t[:1], cond[:1], z=z[:1]), rtol=1e-4, atol=1e-4)
    assert torch.equal(made(x, t, cond), made(x, t, cond, z=torch.zeros_like(z)))


def test_who_has_none_is_told_none_and_who_has_more_is_given_none(net: nn.Module) -> None:
    x, t, cond, z = inputs()
    with pytest.raises(
        ValueError, match="the network has no latent variable, and was told noise; the sampler rule ddgan"
    ):
        net(x, t, cond, z=z)
    with pytest.raises(ValueError, match="the network has one time, and was asked for the average"):
        learnt(net)(x, t, cond, until=t / 2)
    timed = copy.deepcopy(net)
    timed.add_second_time(0)
    with pytest.raises(ValueError, match="a model of two times is told no noise of its own; start from another"):
        timed.add_latent_variable(SIZE, 0)
    with pytest.raises(ValueError, match="num_students=2: it starts from a model that is told noise; set it to 1"):
        learnt(net).divide(2)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "spec", [even(2, rule="ddgan"), even(3, rule="ddgan", guidance=2.0), even(2, guidance=1.5), even(1, rule="ddgan")]
)
def test_stock_diffusers_gives_our_images_to_the_last_bit(net: nn.Module, spec, tmp_path) -> None:
    save(tmp_path, Student(learnt(net), spec, SPACE, net.text.frozen()), program(spec))
    noise, again = Noise(5, "export"), load(tmp_path, PROMPTS)
    x, t, cond, z = inputs()
    torch.testing.assert_close(again.net(x, t, cond, z=z), learnt(net)(x, t, cond, z=z), rtol=1e-4, atol=1e-4)
    ours = draw(again, ROWS, noise)
    steps = spec.num_steps  # each draws z, and each but the last noise
    nodes = [node for i in range(steps) for node in ((steps + 1 + i, i + 1) if i + 1 < steps else (steps + 1 + i,))]
    theirs = stock_images(tmp_path, PROMPTS, noise, SPACE.shape, nodes if spec.rule["name"] == "ddgan" else ())
    last_bits = 1e-4 if net.component == "unet" else 0.0  # whose convolutions are laid out otherwise there
    torch.testing.assert_close(theirs, ours, atol=last_bits, rtol=last_bits)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("rule", [{"rule": "flow_map", "depth": 0.0}, {"rule": "oftsr", "share": 0.6}])
def test_a_network_that_is_told_pictures_may_have_two_times(net: nn.Module, rule, tmp_path) -> None:
    """It begins as it was, hears both, is saved with both, and the folder's own pipeline asks both."""
    made, (x, t, cond, z) = learnt(net), inputs()
    made.add_second_time(0)
    torch.testing.assert_close(made(x, t, cond, until=t / 2, z=z), learnt(net)(x, t, cond, z=z))
    nn.init.normal_(made.second_time.outer.weight, std=0.5, generator=stream(2, "test"))
    made.requires_grad_(False)
    answers = [made(x, t, cond, until=s, z=each) for s in (t, t / 2) for each in (z, z.flip(0))]
    assert all(not torch.allclose(one, other) for one, other in combinations(answers, 2))
    spec = even(2, **rule)
    save(tmp_path, Student(made, spec, SPACE, net.text.frozen()), program(spec))
    again, noise = load(tmp_path, PROMPTS), Noise(5, "export")
    torch.testing.assert_close(again.net(x, t, cond, until=t / 2, z=z), answers[2], rtol=1e-4, atol=1e-4)
    told = restored(again, ROWS, z, noise)
    assert not torch.allclose(told, restored(again, ROWS, z.flip(0), noise))
    assert not torch.allclose(told, draw(again, ROWS, noise))
    theirs = stock_images(tmp_path, PROMPTS, noise, SPACE.shape)
    last_bits = 1e-4 if net.component == "unet" else 0.0
    torch.testing.assert_close(theirs, draw(again, ROWS, noise), atol=last_bits, rtol=last_bits)
