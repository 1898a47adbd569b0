"""ImageReward: against its layers as they are written out here, on a tiny one under the published names."""

import math
import pickle
import re
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import conv2d, gelu, layer_norm, linear

from stages.core.pictures import pictures
from stages.core.prompts import Prompt
from stages.rewards import Given, terms, weighted
from tests.tiny_vlm import save_image_reward

PROMPTS = [Prompt("a cat"), Prompt("a dog"), Prompt("x" * 50)]
DOCS = Path(__file__).parents[2] / "docs/rewards.md"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    save_image_reward(root)
    return root


@pytest.fixture
def images():
    return torch.rand(3, 3, 24, 40, generator=torch.Generator().manual_seed(0))


def built(root, source):
    stated = {
        "kind": "image_reward", "weight": 1.0, "source": str(source), "tokenizer": {"source": str(root / "bert")},
    }  # fmt: skip
    return weighted(terms({"it": stated}, "r"), Given(None, "cpu"))


def attended(queries, found, values, heads, mask=None):
    """softmax(QK / sqrt d) V of projections that are done, [N, D] each."""
    q, k, v = (each.unflatten(-1, (heads, -1)).transpose(0, 1) for each in (queries, found, values))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = scores if mask is None else scores.masked_fill(mask == 0, -math.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)


def by_hand(root, image, text):
    """The score, by the layers of the file one after the other."""
    from PIL import Image
    from transformers import AutoTokenizer

    w = load_file(root / "ImageReward.safetensors")

    def dense(name, x):
        return linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def normed(name, x, eps):
        return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    drawn = pictures(image[None])[0].resize((53, 32), Image.Resampling.BICUBIC).crop((10, 0, 42, 32))
    pixels = torch.frombuffer(bytearray(drawn.tobytes()), dtype=torch.uint8).view(32, 32, 3).permute(2, 0, 1) / 255
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = (pixels - mean[:, None, None]) / std[:, None, None]

    at = "blip.visual_encoder"
    patches = conv2d(pixels[None], w[f"{at}.patch_embed.proj.weight"], w[f"{at}.patch_embed.proj.bias"], stride=16)
    x = torch.cat([w[f"{at}.cls_token"][0], patches[0].flatten(1).T]) + w[f"{at}.pos_embed"][0]
    q, k, v = dense(f"{at}.blocks.0.attn.qkv", normed(f"{at}.blocks.0.norm1", x, 1e-6)).chunk(3, dim=-1)
    x = x + dense(f"{at}.blocks.0.attn.proj", attended(q, k, v, heads=2))
    inner = gelu(dense(f"{at}.blocks.0.mlp.fc1", normed(f"{at}.blocks.0.norm2", x, 1e-6)))
    seen = normed(f"{at}.norm", x + dense(f"{at}.blocks.0.mlp.fc2", inner), 1e-6)

    words = AutoTokenizer.from_pretrained(root / "bert")(
        text, padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )
    at = "blip.text_encoder.embeddings"
    x = w[f"{at}.word_embeddings.weight"][words.input_ids[0]] + w[f"{at}.position_embeddings.weight"][:35]
    x = normed(f"{at}.LayerNorm", x, 1e-12)
    at = "blip.text_encoder.encoder.layer.0"
    for part, other, mask in (("attention", None, words.attention_mask[0]), ("crossattention", seen, None)):
        read = x if other is None else other
        q, k, v = (dense(f"{at}.{part}.self.{name}", of) for name, of in (("query", x), ("key", read), ("value", read)))
        found = dense(f"{at}.{part}.output.dense", attended(q, k, v, heads=1, mask=mask))
        x = normed(f"{at}.{part}.output.LayerNorm", x + found, 1e-12)
    inner = gelu(dense(f"{at}.intermediate.dense", x))
    x = normed(f"{at}.output.LayerNorm", x + dense(f"{at}.output.dense", inner), 1e-12)[0]
    for place in (0, 2, 4, 6, 7):
        x = dense(f"mlp.layers.{place}", x)
    return (x[0] - 0.16717362830052426) / 1.0333394966054072


def test_the_score_is_that_of_its_layers_whatever_is_beside_it(root, images):
    found = built(root, root)(images, PROMPTS)
    alone = torch.stack([by_hand(root, image, prompt.text) for image, prompt in zip(images, PROMPTS, strict=True)])
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_image_and_prompt_matter_and_a_prompt_is_cut_at_35_tokens(root, images):
    reward = built(root, root / "ImageReward.safetensors")
    same = reward(images[:1].repeat(4, 1, 1, 1), [*PROMPTS, Prompt("x" * 60)])
    assert len(set(same[:3].tolist())) == 3
    torch.testing.assert_close(same[2], same[3])
    assert len(set(reward(images, PROMPTS[:1] * 3).tolist())) == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mlp.layers.7.bias": None}, r"lacks mlp\.layers\.7\.bias"),
        ({"blip.visual_encoder.patch_embed.proj.weight": None}, r"lacks blip\.visual_encoder\.patch_embed"),
        ({"blip.visual_encoder.norm.bias": torch.ones(3)}, r"other shapes: blip\.visual_encoder\.norm\.bias \[3\]"),
        ({"mlp.layers.9.bias": torch.ones(3)}, r"weights that are unknown: mlp\.layers\.9\.bias"),
    ],
)
def test_what_is_no_image_reward_is_told_by_name(root, tmp_path, change, told):
    content = load_file(root / "ImageReward.safetensors") | change
    save_file({name: each for name, each in content.items() if each is not None}, tmp_path / "it.safetensors")
    with pytest.raises(ValueError, match=told):
        built(root, tmp_path / "it.safetensors")


def test_the_documented_command_makes_the_file_and_unpickles_nothing_but_weights(root, images, tmp_path, monkeypatch):
    command = re.search(r"^\$ python -c '(.*ImageReward.*)'$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)[1]
    (tmp_path / "command.py").write_text(command)
    monkeypatch.chdir(tmp_path)
    torch.save(load_file(root / "ImageReward.safetensors"), "ImageReward.pt")
    runpy.run_path("command.py")
    made = built(root, tmp_path / "ImageReward.safetensors")(images, PROMPTS)
    torch.testing.assert_close(made, built(root, root)(images, PROMPTS))
    torch.save({"w": Path("/")}, "ImageReward.pt")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        runpy.run_path("command.py")
