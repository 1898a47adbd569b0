"""Several networks that share the prompts: each prompt has one, is answered by it alone, and so it is in the folder."""

import copy

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from stages.core.rng import seeded, stream
from stages.core.spec import even
from stages.models import Student, TextTable, load, save, space_of
from stages.models.conditioning import FrozenText
from stages.models.network import seeded_build
from stages.models.several import parted
from stages.models.sketch import divided, trained
from stages.models.text import build_encoder, build_tokenizer
from stages.samplers.program import program
from stages.samplers.student import Noise, draw
from tests.models.test_second_time import SIZES, SPACE

pytestmark = pytest.mark.slow

PROMPTS = [
    f"a {weight} {slant} {digit}" for weight in ("bold", "thin") for slant in ("upright", "slanted") for digit in "012"
]
COUNT = 3


@pytest.fixture(scope="module")
def encoder() -> FrozenText:
    from stages.models.text import Clip

    tokenizer = build_tokenizer(["", *PROMPTS])
    with seeded(0):
        return FrozenText(build_encoder(Clip(kind="clip", num_layers=1), tokenizer, 16, 2).eval(), tokenizer)


@pytest.fixture(params=SIZES, scope="module")
def net(request: pytest.FixtureRequest, encoder: FrozenText) -> nn.Module:
    table = TextTable(["", *PROMPTS], encoder.encode(["", *PROMPTS]))
    made = seeded_build(0, SIZES[request.param], SPACE.shape, table)
    last = made.body.proj_out if request.param == "transformer" else made.body.conv_out
    nn.init.normal_(last.weight, std=0.3, generator=stream(0, "test"))  # starts at zero
    return made.eval().requires_grad_(False)


def shared(net: nn.Module) -> nn.Module:
    """Three networks that differ."""
    made = copy.deepcopy(net)
    made.divide(COUNT)
    for number, member in enumerate(made.body.members):
        for weight in member.parameters():
            weight.mul_(1 + 0.05 * number)
    return made.requires_grad_(False)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    n = len(PROMPTS)
    return (
        torch.randn(n, *SPACE.shape, generator=stream(0, "x")),
        torch.linspace(0.2, 0.9, n),
        torch.arange(1, n + 1)[:, None],
    )


def part_of(net: nn.Module, cond: Tensor) -> Tensor:
    return net.body.part(net.text(cond)["hidden"])


def test_parts_are_equal_and_begin_as_no_change(net: nn.Module) -> None:
    before, made, (x, t, cond) = torch.get_rng_state(), copy.deepcopy(net), inputs()
    made.divide(COUNT)
    assert torch.equal(before, torch.get_rng_state())
    assert part_of(made, cond).bincount().tolist() == [4, 4, 4]
    torch.testing.assert_close(made(x, t, cond), net(x, t, cond))
    torch.testing.assert_close(made.features(x, t, cond), net.features(x, t, cond))
    kept = made.body
    made.divide(COUNT)
    assert made.body is kept, "a chain of students goes on with it"


def test_each_prompt_is_answered_by_the_network_of_its_part_alone(net: nn.Module) -> None:
    made, (x, t, cond) = shared(net), inputs()
    answer, seen, part = made(x, t, cond), made.features(x, t, cond), part_of(made, cond)
    for number, member in enumerate(made.body.members):
        alone = copy.copy(made)
        alone._modules = {**made._modules, "body": member}
        rows = part == number
        torch.testing.assert_close(answer[rows], alone(x[rows], t[rows], cond[rows]))
        torch.testing.assert_close(seen[rows], alone.features(x[rows], t[rows], cond[rows]))
        assert not torch.allclose(answer[~rows], alone(x[~rows], t[~rows], cond[~rows]))


def test_labels_that_are_told_apart_one_by_one_are_cut_in_their_order() -> None:
    direction, cuts = parted(torch.eye(12), 4)
    assert torch.bucketize(torch.eye(12) @ direction, cuts).tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


def test_prompts_are_cut_along_what_tells_most_of_them_apart() -> None:
    features = torch.randn(9, 5, generator=stream(0, "features")) * torch.tensor([0.1, 0.1, 5.0, 0.1, 0.1])
    direction, cuts = parted(features, 3)
    part, order = torch.bucketize(features @ direction, cuts), features[:, 2].argsort()
    assert part[order].tolist() in ([0, 0, 0, 1, 1, 1, 2, 2, 2], [2, 2, 2, 1, 1, 1, 0, 0, 0])


def test_there_is_a_prompt_for_each_and_one_time(net: nn.Module) -> None:
    with pytest.raises(ValueError, match="num_students=13: there are 12 prompts to share; name no more than that"):
        copy.deepcopy(net).divide(13)
    with pytest.raises(ValueError, match="num_students=2: it starts from a model of 3 students; set it to 1"):
        shared(net).divide(2)
    timed = copy.deepcopy(net)
    timed.add_second_time(0)
    with pytest.raises(ValueError, match="num_students=2: it starts from a model of two times; set it to 1"):
        timed.divide(2)
    with pytest.raises(ValueError, match="a model of 3 students has one time"):
        shared(net).add_second_time(0)


def test_a_sketch_of_it_has_the_weights_of_all() -> None:
    one = trained(SIZES["transformer"], SPACE.shape)
    several = divided(one, COUNT)
    sizes = [sum(weight.numel() for weight in each.build().parameters()) for each in (one, several)]
    assert sizes[1] == COUNT * sizes[0]
    assert several.call(several.build(), 5).shape == (5, *SPACE.shape)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("spec", [even(1), even(2, guidance=2.0)])
def test_stock_diffusers_gives_our_images(net: nn.Module, encoder: FrozenText, spec, tmp_path) -> None:
    made, (x, t, cond) = shared(net), inputs()
    save(tmp_path, Student(made, spec, SPACE, encoder), program(spec))
    again = load(tmp_path, PROMPTS)
    assert space_of(tmp_path).shape == SPACE.shape
    torch.testing.assert_close(again.net(x, t, cond), made(x, t, cond))
    backwards = load(tmp_path, PROMPTS[::-1])
    torch.testing.assert_close(backwards.net(x, t, cond.flip(0)), made(x, t, cond))
    noise = Noise(5, "export")
    stock = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    stock.set_progress_bar_config(disable=True)
    theirs = stock(PROMPTS, latents=noise.at(0, len(cond), SPACE.shape), output_type="pt").images
    torch.testing.assert_close(theirs, draw(again, cond, noise), atol=1e-5, rtol=1e-5)
