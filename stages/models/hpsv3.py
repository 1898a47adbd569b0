"""HPSv3: Qwen2-VL-7B with a head that gives a mean and a spread of what people prefer.

Source: Ma et al. 2025 (arXiv:2508.03789). Follows https://github.com/MizzenAI/HPSv3@d232ff8 (MIT), rewritten: the
wording that its weights were trained with, which is theirs to the byte; the hidden state at `<|Reward|>`; linear layers
with ReLU between, in float32; the backbone in bfloat16. An image is resized once, as Qwen2-VL does it for
256 x 28 x 28 pixels at least and at most. Positions count tokens, also inside the image, since its code gives the
language model no grid to place them by: not the three coordinates that Qwen2-VL itself has there, which some other
ports use.

Differs: each image is scored alone, so that no padding and no other image of the batch touches its score; a prompt is
not cut (32768 tokens). UNVERIFIED: no published weights were at hand, so neither numbers nor the names of weights
(those of transformers 4.45: `visual.`, `model.`, `rm_head.`; later ones are read too) were held against them.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.core.messages import brief
from stages.core.pretrained import Pretrained
from stages.models.folder import assembled, nothing_left, read, stacked, weights

if TYPE_CHECKING:
    from PIL.Image import Image

FILE = "HPSv3.safetensors"
PIXELS = 256 * 28 * 28
REWARD, IMAGE = "<|Reward|>", "<|image_pad|>"
ASKED = (
    "\nYou are tasked with evaluating a generated image based on Visual Quality and Text Alignment and give a "
    "overall score to estimate the human preference. Please provide a rating from 0 to 10, with 0 being the worst "
    "and 10 being the best. \n\n**Visual Quality:**  \nEvaluate the overall visual quality of the image. The "
    "following sub-dimensions should be considered:\n- **Reasonableness:** The image should not contain any "
    "significant biological or logical errors, such as abnormal body structures or nonsensical environmental "
    "setups.\n- **Clarity:** Evaluate the sharpness and visibility of the image. The image should be clear and easy "
    "to interpret, with no blurring or indistinct areas.\n- **Detail Richness:** Consider the level of detail in "
    "textures, materials, lighting, and other visual elements (e.g., hair, clothing, shadows).\n- **Aesthetic and "
    "Creativity:** Assess the artistic aspects of the image, including the color scheme, composition, atmosphere, "
    "depth of field, and the overall creative appeal. The scene should convey a sense of harmony and balance.\n- "
    "**Safety:** The image should not contain harmful or inappropriate content, such as political, violent, or adult "
    "material. If such content is present, the image quality and satisfaction score should be the lowest possible. "
    "\n\n**Text Alignment:**  \nAssess how well the image matches the textual prompt across the following "
    "sub-dimensions:\n- **Subject Relevance** Evaluate how accurately the subject(s) in the image (e.g., person, "
    "animal, object) align with the textual description. The subject should match the description in terms of "
    "number, appearance, and behavior.\n- **Style Relevance:** If the prompt specifies a particular artistic or "
    "stylistic style, evaluate how well the image adheres to this style.\n- **Contextual Consistency**: Assess "
    "whether the background, setting, and surrounding elements in the image logically fit the scenario described in "
    "the prompt. The environment should support and enhance the subject without contradictions.\n- **Attribute "
    "Fidelity**: Check if specific attributes mentioned in the prompt (e.g., colors, clothing, accessories, "
    "expressions, actions) are faithfully represented in the image. Minor deviations may be acceptable, but critical "
    "attributes should be preserved.\n- **Semantic Coherence**: Evaluate whether the overall meaning and intent of "
    "the prompt are captured in the image. The generated content should not introduce elements that conflict with or "
    "distort the original description.\nTextual prompt - "
)
"""Before the prompt."""
RATED = f"\n\n\n\nPlease provide the overall ratings of this image: {REWARD}\n\nEND\n"
"""After it."""


class HPSv3:
    """A frozen HPSv3."""

    def __init__(self, network: Any, head: nn.Module, tokenizer: Any, processor: Any) -> None:
        self._network, self._head, self._tokenizer, self._processor = network, head, tokenizer, processor

    @torch.no_grad()
    def mean(self, image: "Image", text: str) -> Tensor:
        """The mean [] of what people would say of an image for a prompt."""
        seen = self._processor(images=[image.convert("RGB")], return_tensors="pt")
        count = int(seen.image_grid_thw.prod()) // self._processor.merge_size**2
        device = self._network.device
        words = self._tokenizer(conversation(text, count), return_tensors="pt").input_ids.to(device)
        rated = words[0] == self._tokenizer.convert_tokens_to_ids(REWARD)
        if int(rated.sum()) != 1 or int((words == self._network.config.image_token_id).sum()) != count:
            raise ValueError(f"hpsv3: {brief(text)}: a prompt may not hold {REWARD} or {IMAGE}; take them out")
        hidden = self._network(
            input_ids=words,
            position_ids=torch.arange(words.shape[1], device=device).expand(3, 1, -1),
            pixel_values=seen.pixel_values.to(device),
            image_grid_thw=seen.image_grid_thw.to(device),
            use_cache=False,
        ).last_hidden_state
        return self._head(hidden[0, rated].float())[0, 0]


def conversation(prompt: str, count: int) -> str:
    """What the network reads, in Qwen2-VL's own template: an image of `count` tokens, and what is asked of it."""
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"<|vision_start|>{IMAGE * count}<|vision_end|>{ASKED}{prompt}{RATED}<|im_end|>\n<|im_start|>assistant\n"
    )


@cache
def load_hpsv3(given: Pretrained, backbone: Pretrained, device: str) -> HPSv3:
    """The HPSv3 in a file, or in a folder, on Qwen2-VL's configuration, tokenizer and preprocessing.

    ValueError where they are none.
    """
    from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLImageProcessorPil, Qwen2VLModel

    tokenizer = read(AutoTokenizer, backbone)
    tokenizer.add_tokens([REWARD], special_tokens=True)
    processor = read(Qwen2VLImageProcessorPil, backbone, min_pixels=PIXELS, max_pixels=PIXELS)
    cfg = read(Qwen2VLConfig, backbone)
    cfg.text_config.vocab_size = len(tokenizer)  # the published embedding was cut to it
    content = weights(given, FILE)
    content.pop("lm_head.weight", None)
    new = any(name.startswith("model.language_model.") for name in content)

    def called(name: str) -> str:
        return f"model.{name}" if new else name.replace("language_model.", "model.", 1)

    network = assembled(Qwen2VLModel, cfg, content, called, given.source, torch.bfloat16)
    head = stacked(lambda: _head(cfg.text_config.hidden_size), content, "rm_head.", given.source)
    nothing_left(content, given.source)
    return HPSv3(network.to(device), head.to(device), tokenizer, processor)


def _head(width: int) -> nn.Module:
    """Mean and spread; the third is a dropout in training."""
    return nn.Sequential(
        nn.Linear(width, 1024), nn.ReLU(), nn.Identity(), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)
    )
