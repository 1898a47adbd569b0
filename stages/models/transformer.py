"""The velocity network: diffusers' SD3 transformer, which reads prompts from a table.

diffusers counts time from 0 to 1000; this file is where that begins and ends.
"""

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from stages.core.config import config
from stages.core.ranges import Size
from stages.core.types import Cond
from stages.models.conditioning import LearnedText
from stages.models.opened import Opened
from stages.models.table import Text
from stages.models.times import TwoTimes

if TYPE_CHECKING:  # see text.py
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

DIFFUSERS_TIME = 1000.0


@config
class TransformerConfig:
    """The size of a transformer."""

    kind: Literal["transformer"]
    width: Size
    num_layers: Size
    num_heads: Size
    patch_size: Size

    def __post_init__(self) -> None:
        if self.width % 4:
            raise ValueError(f"width={self.width}: positions are two sines and two cosines; name a multiple of 4")
        if self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide width={self.width}")

    @property
    def text_size(self) -> tuple[int, int]:
        """Width and heads of the text encoder that a teacher learns."""
        return self.width, self.num_heads

    def fit(self, sample_shape: tuple[int, ...]) -> None:
        """ValueError unless samples of `sample_shape` (C, H, W) fall into patches."""
        _, height, width = sample_shape
        if height != width or height % self.patch_size:
            raise ValueError(f"patch_size={self.patch_size} does not divide square samples of {height}x{width}")


class VelocityTransformer(TwoTimes):
    """Flow velocity [B, C, H, W] from x, t in [0, 1] and the row of a prompt in the text table."""

    component = "transformer"
    """The folder of a pipeline that holds its body."""

    def __init__(self, body: "SD3Transformer2DModel", text: Text | LearnedText) -> None:
        super().__init__()
        self.body = body
        self.text = text
        settings = body.config.get("each", body.config)
        self.feature_dim = settings["attention_head_dim"] * settings["num_attention_heads"]

    @classmethod
    def build(
        cls, cfg: TransformerConfig, sample_shape: tuple[int, ...], text: Text | LearnedText
    ) -> "VelocityTransformer":
        """A fresh network for samples of `sample_shape` (C, H, W) that reads `text`, from torch's seed."""
        from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

        cfg.fit(sample_shape)
        channels, height, _ = sample_shape
        read = text(torch.zeros(1, 1, dtype=torch.int64))
        body = SD3Transformer2DModel(
            sample_size=height,
            patch_size=cfg.patch_size,
            in_channels=channels,
            out_channels=channels,
            num_layers=cfg.num_layers,
            attention_head_dim=cfg.width // cfg.num_heads,
            num_attention_heads=cfg.num_heads,
            joint_attention_dim=read["hidden"].shape[-1],
            caption_projection_dim=cfg.width,
            pooled_projection_dim=read["pooled"].shape[-1],
            pos_embed_max_size=height // cfg.patch_size,
        )
        return cls(body, text)

    @property
    def multiple(self) -> int:
        """Of which a picture's sides have to be."""
        return self.body.config.get("each", self.body.config)["patch_size"]

    @property
    def time_embedding(self) -> tuple[nn.Module, int]:
        """Of t and the prompt as a whole."""
        return self.body.time_text_embed, self.feature_dim

    @property
    def last_layer(self) -> tuple[nn.Module, int, int]:
        """A linear one; a patch's pixels, each with its channels, follow each other."""
        return self.body.proj_out, self.body.config["patch_size"] ** 2, 1

    def asked(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Of the body as it is."""
        words = self.text(cond)
        return self.body(
            hidden_states=x,
            timestep=t * DIFFUSERS_TIME,
            encoder_hidden_states=words["hidden"],
            pooled_projections=words["pooled"],
            return_dict=False,
        )[0]

    @property
    def num_blocks(self) -> int:
        """That a call goes through, one after the other; ValueError where it is several networks, has a policy,
        or reads negative prompts.
        """
        if self.num_students > 1:
            raise ValueError(f"a network of {self.num_students} students is not called block by block")
        if self.policy is not None:
            raise ValueError("a network that answers a policy is not called block by block")
        if self.negative_reader is not None:
            raise ValueError("a network that reads negative prompts is not called block by block")
        return len(self.body.transformer_blocks)

    def opened(self, x: Tensor, t: Tensor, cond: Cond) -> Opened:
        """A call of `forward` that has not yet gone through any block."""
        words = self.text(cond)
        with self.told(t, None):
            time = self.body.time_text_embed(t * DIFFUSERS_TIME, words["pooled"])
        tokens = self.body.pos_embed(x).contiguous()
        return Opened(self.body, tokens, self.body.context_embedder(words["hidden"]), time)

    def features(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Image tokens [B, T, feature_dim] half-way up; runs only the blocks below."""
        words = self.text(cond)

        def seen(body: Any, rows: Tensor | slice) -> Tensor:
            blocks, hidden = body.transformer_blocks, body.pos_embed(x[rows])
            with self.told(t, None):
                temb = body.time_text_embed(t[rows] * DIFFUSERS_TIME, words["pooled"][rows])
            context = body.context_embedder(words["hidden"][rows])
            for block in blocks[: (len(blocks) + 1) // 2]:
                context, hidden = block(hidden_states=hidden, encoder_hidden_states=context, temb=temb)
            return hidden

        with self.led(cond):
            return self.by_student(words["hidden"], seen)
