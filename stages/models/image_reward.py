"""ImageReward: BLIP with a head on the first token of the text that has seen the image.

Source: Xu et al. 2023 (arXiv:2304.05977). Follows https://github.com/THUDM/ImageReward@c1392c6 (Apache-2.0), rewritten
on transformers' BLIP: ViT-L of 224 pixels sees the image, BERT with cross-attention to it reads the prompt, in both
directions, cut at 35 tokens; five linear layers with nothing between follow. Scores are centred and scaled as it does,
about -2 to 2 with mean 0 over its own images. Heads are 64 wide, other sizes are those of the weights.

Its weights are a pickle, which nothing here loads: docs/rewards.md has the command that makes a safetensors file of it,
with the same names; ModelScope's DiffSynth-Studio/QualityMetric_reward_pretrained has such a file. UNVERIFIED: no
published weights were at hand, so neither numbers nor these names, which are those of the modules in its code, were
held against them.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from stages.core.pictures import pictures
from stages.core.pretrained import Pretrained
from stages.models.folder import assembled, nothing_left, read, stacked, weights

FILE = "ImageReward.safetensors"
MEAN, STD = 0.16717362830052426, 1.0333394966054072
TOKENS = 35
HEAD = 64
SEES, READS = "blip.visual_encoder.", "blip.text_encoder."
_SEES = (
    ("encoder.layers.", "blocks."),
    ("self_attn.projection", "attn.proj"),
    ("self_attn.", "attn."),
    ("post_layernorm", "norm"),
    ("layer_norm", "norm"),
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding", "pos_embed"),
    ("embeddings.patch_embedding", "patch_embed.proj"),
)
"""What transformers calls parts of BLIP's vision, and BLIP does; of its text, both say the same."""
_UNUSED = ("blip.vision_proj.", "blip.text_proj.", f"{READS}embeddings.position_ids")


class ImageReward(nn.Module):
    """A frozen ImageReward in float32."""

    def __init__(self, sees: Any, reads: Any, head: nn.Module, tokenizer: Any) -> None:
        from transformers import CLIPImageProcessorPil

        super().__init__()
        self.sees, self.reads, self.head, self.tokenizer = sees, reads, head, tokenizer
        side = sees.config.image_size
        # Its means and deviations are CLIP's, which are this class's own; so is bicubic resizing.
        self.processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})

    @torch.no_grad()
    def forward(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """[B], of each image with its own text."""
        drawn = [each.convert("RGB") for each in pictures(images)]
        pixels = self.processor(images=drawn, return_tensors="pt").pixel_values
        words = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(self.sees.device)
        read = self.reads(
            input_ids=words.input_ids,
            attention_mask=words.attention_mask,
            encoder_hidden_states=self.sees(pixels.to(self.sees.device)).last_hidden_state,
        ).last_hidden_state
        return (self.head(read[:, 0])[:, 0] - MEAN) / STD


@cache
def load_image_reward(given: Pretrained, words: Pretrained, device: str) -> ImageReward:
    """The ImageReward in a file, or in a folder, with the tokenizer of `words`; ValueError where they are none."""
    from transformers import AutoTokenizer, BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    content = {name: weight for name, weight in weights(given, FILE).items() if not name.startswith(_UNUSED)}
    seen, text = _sizes(content, given.source)
    tokenizer = read(AutoTokenizer, words)
    if len(tokenizer) > text.vocab_size:
        raise ValueError(f"{words.source}: {len(tokenizer)} tokens where {given.source} knows {text.vocab_size}")
    sees = assembled(BlipVisionModel, seen, content, _of_blip, given.source, torch.float32)
    reads = assembled(
        BlipTextModel, text, content, lambda name: READS + name, given.source, torch.float32, add_pooling_layer=False
    )
    head = stacked(lambda: _head(text.hidden_size), content, "mlp.layers.", given.source)
    nothing_left(content, given.source)
    return ImageReward(sees, reads, head, tokenizer).to(device)


def _of_blip(name: str) -> str:
    for mine, theirs in _SEES:
        name = name.replace(mine, theirs)
    return SEES + name


def _sizes(content: Mapping[str, Tensor], source: str) -> tuple[Any, Any]:
    """The configurations of vision and text that weights of these shapes have."""
    from transformers import BlipTextConfig, BlipVisionConfig

    def shape(name: str) -> Sequence[int]:
        if name not in content:
            raise ValueError(f"{source}: lacks {name}")
        return content[name].shape

    def depth(prefix: str) -> int:
        return len({name.removeprefix(prefix).split(".")[0] for name in content if name.startswith(prefix)})

    width, _, patch, _ = shape(f"{SEES}patch_embed.proj.weight")
    vocabulary, hidden = shape(f"{READS}embeddings.word_embeddings.weight")
    seen = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=shape(f"{SEES}blocks.0.mlp.fc1.weight")[0],
        num_hidden_layers=depth(f"{SEES}blocks."),
        num_attention_heads=width // HEAD,
        patch_size=patch,
        image_size=patch * round((shape(f"{SEES}pos_embed")[1] - 1) ** 0.5),
        layer_norm_eps=1e-6,
    )
    text = BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        encoder_hidden_size=width,
        intermediate_size=shape(f"{READS}encoder.layer.0.intermediate.dense.weight")[0],
        num_hidden_layers=depth(f"{READS}encoder.layer."),
        num_attention_heads=hidden // HEAD,
        max_position_embeddings=shape(f"{READS}embeddings.position_embeddings.weight")[0],
        layer_norm_eps=1e-12,
        bos_token_id=None,
        eos_token_id=None,
        sep_token_id=None,
    )
    return seen, text


def _head(width: int) -> nn.Module:
    """Numbered as in training, where dropouts stand between."""
    last = (nn.Linear(64, 16), nn.Linear(16, 1))
    return nn.Sequential(
        nn.Linear(width, 1024), nn.Identity(), nn.Linear(1024, 128), nn.Identity(), nn.Linear(128, 64), nn.Identity(),
        *last,
    )  # fmt: skip
