"""HPSv3: against its layers as they are written out here, on a tiny one in the published layout."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.core.hashing import sha256
from stages.core.pictures import pictures
from stages.core.prompts import Prompt
from stages.models import hpsv3
from stages.rewards import Given, terms, weighted
from tests.tiny_vlm import save_hpsv3

PROMPTS = [Prompt("a cat"), Prompt("a dog"), Prompt("two {cats} and a very long tail of words")]
CLOSE = 2e-4
"""bfloat16's kernels round by where a tensor lies in memory; Qwen2-VL's own positions would change scores by 1.5e-3."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    save_hpsv3(root)
    return root


@pytest.fixture
def images():
    return torch.rand(3, 3, 24, 40, generator=torch.Generator().manual_seed(0))


def built(root, file="hpsv3"):
    stated = {"kind": "hpsv3", "weight": 1.0, "source": str(root / file), "backbone": {"source": str(root / "qwen2vl")}}
    return weighted(terms({"it": stated}, "r"), Given(None, "cpu"))


def by_hand(root, image, text):
    """The mean, by the layers of the file one after the other."""
    from PIL import Image
    from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

    content = load_file(root / "hpsv3" / hpsv3.FILE)
    tokenizer = AutoTokenizer.from_pretrained(root / "qwen2vl")
    tokenizer.add_tokens(["<|Reward|>"], special_tokens=True)
    cfg = Qwen2VLConfig.from_pretrained(root / "qwen2vl")
    cfg.text_config.vocab_size = len(tokenizer)
    model = Qwen2VLForConditionalGeneration(cfg).eval().model
    for weight in model.parameters():  # and no buffer: the angles of positions are of float32
        weight.data = weight.data.bfloat16()
    model.visual.load_state_dict({k[7:]: w for k, w in content.items() if k.startswith("visual.")})
    model.language_model.load_state_dict({k[6:]: w for k, w in content.items() if k.startswith("model.")})
    # 24 x 40 at a factor of 2 x 56: ceil of both sides, as the area is below 256 x 28 x 28.
    drawn = pictures(image[None])[0].resize((672, 448), Image.Resampling.BICUBIC)
    seen = Qwen2VLImageProcessorPil.from_pretrained(root / "qwen2vl")(
        images=[drawn], do_resize=False, return_tensors="pt"
    )
    assert seen.image_grid_thw.tolist() == [[1, 8, 12]]
    asked = hpsv3.ASKED + text + "\n\n\n\nPlease provide the overall ratings of this image: <|Reward|>\n\nEND\n"
    told = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        + "<|image_pad|>" * 24 + "<|vision_end|>" + asked + "<|im_end|>\n<|im_start|>assistant\n"
    )  # fmt: skip
    ids = tokenizer(told, return_tensors="pt").input_ids
    with torch.no_grad():
        embedded = model.language_model.embed_tokens(ids)
        patches = model.visual(seen.pixel_values.bfloat16(), grid_thw=seen.image_grid_thw).pooler_output
        embedded[ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")] = patches
        out = model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        found = out[ids == tokenizer.convert_tokens_to_ids("<|Reward|>")].float()
        for layer in (0, 3, 5):
            found = found @ content[f"rm_head.{layer}.weight"].T + content[f"rm_head.{layer}.bias"]
            found = found if layer == 5 else found.relu()
    return found[0, 0]


def test_the_score_is_that_of_its_layers_and_of_no_other_image(root, images):
    found = built(root)(images, PROMPTS)
    alone = [by_hand(root, image, prompt.text) for image, prompt in zip(images, PROMPTS, strict=True)]
    torch.testing.assert_close(found, torch.stack(alone), rtol=0, atol=CLOSE)
    assert torch.equal(found[1:2], built(root)(images[1:2], PROMPTS[1:2]))


def test_image_and_prompt_matter(root, images):
    reward = built(root)
    same = reward(images[:1].repeat(3, 1, 1, 1), PROMPTS)
    assert len(set(same.tolist())) == 3
    assert len(set(reward(images, PROMPTS[:1] * 3).tolist())) == 3


def test_the_wording_is_what_the_weights_were_trained_with():
    """The digest of INSTRUCTION + prompt_with_special_token, {text_prompt} in place, of MizzenAI/HPSv3."""
    said = sha256(f"{hpsv3.ASKED}{{text_prompt}}{hpsv3.RATED}".encode())
    assert said == "f6ee57479d4e9eee76b49c00dc962e1e696a5a2b3cc32cebd9b1fa76fe27502c"


def test_a_prompt_cannot_ask_for_another_rating(root, images):
    with pytest.raises(ValueError, match=r"hpsv3: a <\|Reward\|>: a prompt may not hold"):
        built(root)(images[:1], [Prompt("a <|Reward|>")])


def test_later_names_of_weights_are_read_too(root, images, tmp_path):
    content = load_file(root / "hpsv3" / hpsv3.FILE)
    later = {
        ("model." + name if name.startswith("visual.") else name.replace("model.", "model.language_model.", 1)): weight
        for name, weight in content.items()
    }
    save_file(later, tmp_path / "later.safetensors")
    later_found = built(root, tmp_path / "later.safetensors")(images, PROMPTS)
    torch.testing.assert_close(later_found, built(root)(images, PROMPTS), rtol=0, atol=CLOSE)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rm_head.3.bias": None}, r"lacks rm_head\.3\.bias"),
        ({"model.norm.weight": None}, r"lacks model\.norm\.weight"),
        ({"model.norm.weight": torch.ones(3)}, r"other shapes: model\.norm\.weight \[3\] where \[32\] was expected"),
        ({"rm_head.7.weight": torch.ones(3)}, r"weights that are unknown: rm_head\.7\.weight"),
    ],
)
def test_what_is_no_hpsv3_is_told_by_name(root, tmp_path, change, told):
    content = load_file(root / "hpsv3" / hpsv3.FILE) | change
    save_file({name: weight for name, weight in content.items() if weight is not None}, tmp_path / hpsv3.FILE)
    with pytest.raises(ValueError, match=told):
        built(root, tmp_path)


def test_a_folder_without_its_file_is_told(root, tmp_path):
    (tmp_path / "HPSv3.pth").touch()
    with pytest.raises(ValueError, match=r"HPSv3\.safetensors is missing \(it has HPSv3\.pth\); nothing is unpickled"):
        built(root, tmp_path)
