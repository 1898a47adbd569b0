"""A UNet that is trained here: stock diffusers gives its images, of whatever sides."""

from dataclasses import replace

import pytest
import torch
from diffusers import DiffusionPipeline

from stages.core.rng import stream
from stages.core.spec import even
from stages.models import Student, load, save
from stages.models.network import seeded_teacher
from stages.models.space import Pixels
from stages.models.text import Convolutional
from stages.models.unet import UNetConfig
from stages.samplers.student import Noise, draw

PROMPTS = ["a bold left-slanted 7", "a thin upright 3"]
NEIGHBOURS = Convolutional(kind="convolutional", num_layers=1, kernel_size=3)
ROWS = torch.tensor([[1], [2]])
UNET = UNetConfig(
    kind="unet", channels=(8, 16), attends=(True, False), layers_per_level=1, head_dim=4, norm_groups=4, fold=2,
    text_width=8,
)  # fmt: skip


def unet_of(shape):
    made = seeded_teacher(0, UNET, shape, ["", *PROMPTS], NEIGHBOURS)
    torch.nn.init.normal_(made.body.conv_out.weight, std=0.3, generator=stream(0, "test"))  # starts at zero
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def unet():
    return unet_of((3, 8, 8))


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 8, 16)], ids=["square", "wide"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_stock_diffusers_gives_a_unets_images(shape, tmp_path):
    unet = unet_of(shape)
    save(tmp_path, Student(unet, even(2, guidance=2.0), Pixels(shape), unet.text.frozen()))
    noise, again = Noise(5, "export"), load(tmp_path, PROMPTS)
    assert again.space == Pixels(shape)
    ours = draw(again, ROWS, noise)
    stock = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    stock.set_progress_bar_config(disable=True)
    theirs = stock(PROMPTS, latents=noise.at(0, 2, shape), output_type="pt").images
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    assert stock(PROMPTS[0]).images[0].size == (shape[2], shape[1])


def test_a_unets_features_are_its_innermost_blocks(unet):
    x, t = torch.randn(2, 3, 8, 8, generator=stream(0, "x")), torch.tensor([0.3, 0.8])
    seen = []
    handle = unet.body.mid_block.register_forward_hook(lambda _m, _a, out: seen.append(out))
    unet(x, t, ROWS)
    handle.remove()
    found = unet.features(x, t, ROWS)
    torch.testing.assert_close(found, seen[0].flatten(2).transpose(1, 2))
    assert found.shape == (2, 4, unet.feature_dim)
    assert not torch.allclose(unet(x, t, ROWS), unet(x, t, ROWS.flip(0))), "it reads its prompt"


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"fold=2 and 2 levels need .* multiples of 4; they are 6x6"):
        UNET.fit((3, 6, 6))
    with pytest.raises(ValueError, match="they are 8x6"):
        UNET.fit((3, 8, 6))
    with pytest.raises(ValueError, match=r"channels=\[8, 18\]: 18 is no multiple"):
        replace(UNET, channels=(8, 18))
    with pytest.raises(ValueError, match=r"attends=\[True\]: one a level"):
        replace(UNET, attends=(True,))


def test_a_text_encoder_by_convolutions_knows_the_order_of_words_and_where_a_prompt_ends():
    prompts = ["", "a red disc and a blue ring", "a blue disc and a red ring", "a red disc"]
    encoder = seeded_teacher(0, UNET, (3, 8, 8), prompts, NEIGHBOURS).text.frozen()
    read = encoder.encode(prompts)
    assert not torch.allclose(read["hidden"][1, 3], read["hidden"][2, 3]), (
        "the word and is the same, its neighbours not"
    )
    assert torch.equal(read["pooled"][3], read["hidden"][3, 3])
    with pytest.raises(ValueError, match=r"kernel_size=2: .* odd"):
        replace(NEIGHBOURS, kernel_size=2)
