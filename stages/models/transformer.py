"""The velocity network: diffusers' SD3 transformer with a small text encoder of its own.

diffusers counts time from 0 to 1000; this file is where that begins and ends.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stages.core.config import config
from stages.core.ranges import Size
from stages.core.types import Tokens
from stages.models.text import Vocabulary, build_encoder, build_tokenizer

if TYPE_CHECKING:  # see text.py
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from transformers import CLIPTextModel, PreTrainedTokenizerFast

DIFFUSERS_TIME = 1000.0


@config
class NetworkConfig:
    """The size of the transformer and its text encoder."""

    width: Size
    num_layers: Size
    num_heads: Size
    patch_size: Size
    num_text_layers: Size

    def __post_init__(self) -> None:
        if self.width % 4:
            raise ValueError(f"width={self.width}: positions are two sines and two cosines; name a multiple of 4")
        if self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide width={self.width}")

    def fit(self, sample_shape: tuple[int, int, int]) -> None:
        """ValueError unless samples of `sample_shape` (C, H, W) fall into patches."""
        _, height, width = sample_shape
        if height != width or height % self.patch_size:
            raise ValueError(f"patch_size={self.patch_size} does not divide square samples of {height}x{width}")


class VelocityTransformer(nn.Module):
    """Flow velocity [B, C, H, W] from x, t in [0, 1] and the tokens of a prompt."""

    def __init__(
        self, transformer: "SD3Transformer2DModel", text_encoder: "CLIPTextModel", tokenizer: "PreTrainedTokenizerFast"
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder
        self.vocabulary = Vocabulary(tokenizer)
        settings = transformer.config
        self.sample_shape = (settings["in_channels"], settings["sample_size"], settings["sample_size"])
        self.feature_dim = settings["attention_head_dim"] * settings["num_attention_heads"]

    @classmethod
    def build(
        cls, cfg: NetworkConfig, sample_shape: tuple[int, int, int], prompts: Sequence[str]
    ) -> "VelocityTransformer":
        """A fresh network for samples of `sample_shape` (C, H, W) and the words of `prompts`, from torch's seed."""
        from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

        cfg.fit(sample_shape)
        channels, height, _ = sample_shape
        tokenizer = build_tokenizer(prompts)
        transformer = SD3Transformer2DModel(
            sample_size=height,
            patch_size=cfg.patch_size,
            in_channels=channels,
            out_channels=channels,
            num_layers=cfg.num_layers,
            attention_head_dim=cfg.width // cfg.num_heads,
            num_attention_heads=cfg.num_heads,
            joint_attention_dim=cfg.width,
            caption_projection_dim=cfg.width,
            pooled_projection_dim=cfg.width,
            pos_embed_max_size=height // cfg.patch_size,
        )
        return cls(transformer, build_encoder(tokenizer, cfg.width, cfg.num_text_layers, cfg.num_heads), tokenizer)

    def forward(self, x: Tensor, t: Tensor, cond: Tokens) -> Tensor:
        """The velocity at (x [B, C, H, W], t [B])."""
        words = self.text_encoder(input_ids=cond)
        return self.transformer(
            hidden_states=x,
            timestep=t * DIFFUSERS_TIME,
            encoder_hidden_states=words.last_hidden_state,
            pooled_projections=words.pooler_output,
            return_dict=False,
        )[0]

    def features(self, x: Tensor, t: Tensor, cond: Tokens) -> Tensor:
        """Image tokens [B, T, feature_dim] half-way up; runs only the blocks below."""
        blocks = self.transformer.transformer_blocks
        words = self.text_encoder(input_ids=cond)
        hidden = self.transformer.pos_embed(x)
        temb = self.transformer.time_text_embed(t * DIFFUSERS_TIME, words.pooler_output)
        context = self.transformer.context_embedder(words.last_hidden_state)
        for block in blocks[: (len(blocks) + 1) // 2]:
            context, hidden = block(hidden_states=hidden, encoder_hidden_states=context, temb=temb)
        return hidden

    def tokens(self, prompts: Sequence[str]) -> Tokens:
        """[B, L] on the network's device."""
        return self.vocabulary(prompts).to(self.transformer.device)

    def null(self, n: int) -> Tokens:
        """[n, L], the empty prompt."""
        return self.tokens([""]).expand(n, -1)


def seeded_build(
    seed: int, cfg: NetworkConfig, sample_shape: tuple[int, int, int], prompts: Sequence[str]
) -> VelocityTransformer:
    """`VelocityTransformer.build` from `seed`, leaving torch's global stream as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VelocityTransformer.build(cfg, sample_shape, prompts)
