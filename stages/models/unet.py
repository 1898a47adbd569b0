"""The velocity network for small pictures: diffusers' UNet, whose convolutions learn local shapes quickly.

Pixels may be folded into channels first, which makes a call cheaper by the square of the factor.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from stages.core.config import config
from stages.core.ranges import Size
from stages.core.types import Cond
from stages.models.conditioning import LearnedText
from stages.models.table import Text
from stages.models.times import TwoTimes
from stages.models.transformer import DIFFUSERS_TIME

if TYPE_CHECKING:  # see text.py
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


@config
class UNetConfig:
    """The size of a UNet."""

    kind: Literal["unet"]
    channels: Annotated[tuple[Size, ...], Field(min_length=1)]
    """Of each level, the finest first; each level halves the side of the one before."""
    attends: tuple[bool, ...]
    """Whether a level reads the prompt; the innermost block always does."""
    layers_per_level: Size
    head_dim: Size
    """Channels of an attention head."""
    norm_groups: Size
    fold: Annotated[int, Field(ge=1, le=8)]
    """Side of the squares of pixels that become channels before the first level."""
    text_width: Size
    """Of the features that the prompt is read as."""

    def __post_init__(self) -> None:
        if len(self.attends) != len(self.channels):
            raise ValueError(f"attends={list(self.attends)}: one a level, of which channels names {len(self.channels)}")
        for count in self.channels:
            if count % self.head_dim or count % self.norm_groups:
                raise ValueError(f"channels={list(self.channels)}: {count} is no multiple of head_dim and norm_groups")
        if self.text_width % self.head_dim:
            raise ValueError(f"text_width={self.text_width} is no multiple of head_dim={self.head_dim}")

    @property
    def text_size(self) -> tuple[int, int]:
        """Width and heads of the text encoder that a teacher learns."""
        return self.text_width, self.text_width // self.head_dim

    def fit(self, sample_shape: tuple[int, ...]) -> None:
        """ValueError unless samples of `sample_shape` (C, H, W) can be folded and halved level by level."""
        _, height, width = sample_shape
        step = self.fold * 2 ** (len(self.channels) - 1)
        if height % step or width % step:
            raise ValueError(
                f"fold={self.fold} and {len(self.channels)} levels need samples whose sides are multiples of {step}; "
                f"they are {height}x{width}"
            )


class VelocityUNet(TwoTimes):
    """Flow velocity [B, C, H, W] from x, t in [0, 1] and the row of a prompt in the text table."""

    component = "unet"
    """The folder of a pipeline that holds its body."""

    def __init__(self, body: "UNet2DConditionModel", text: Text | LearnedText, fold: int) -> None:
        super().__init__()
        self.body, self.text, self.fold = body, text, fold
        self.feature_dim = body.config.get("each", body.config)["block_out_channels"][-1]

    @classmethod
    def build(cls, cfg: UNetConfig, sample_shape: tuple[int, ...], text: Text | LearnedText) -> "VelocityUNet":
        """A fresh network for samples of `sample_shape` (C, H, W) that reads `text`, from torch's seed."""
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        cfg.fit(sample_shape)
        channels, *sides = sample_shape
        height, width = (side // cfg.fold for side in sides)
        text_width = text(torch.zeros(1, 1, dtype=torch.int64))["hidden"].shape[-1]
        body = UNet2DConditionModel(
            sample_size=height if height == width else (height, width),  # as diffusers writes it
            in_channels=channels * cfg.fold**2,
            out_channels=channels * cfg.fold**2,
            down_block_types=tuple("CrossAttnDownBlock2D" if reads else "DownBlock2D" for reads in cfg.attends),
            up_block_types=tuple("CrossAttnUpBlock2D" if reads else "UpBlock2D" for reads in cfg.attends[::-1]),
            block_out_channels=cfg.channels,
            layers_per_block=cfg.layers_per_level,
            norm_num_groups=cfg.norm_groups,
            cross_attention_dim=text_width,
            attention_head_dim=tuple(count // cfg.head_dim for count in cfg.channels),  # pyright: ignore[reportArgumentType]
            use_linear_projection=True,
            resnet_time_scale_shift="scale_shift",
            # The prompt as a whole joins the time, through attention over its words.
            addition_embed_type="text",
            addition_embed_type_num_heads=4,
            encoder_hid_dim=text_width,
            encoder_hid_dim_type="text_proj",
        )
        nn.init.zeros_(body.conv_out.weight)
        assert body.conv_out.bias is not None
        nn.init.zeros_(body.conv_out.bias)
        return cls(body, text, cfg.fold)

    @property
    def multiple(self) -> int:
        """Of which a picture's sides have to be."""
        levels = len(self.body.config.get("each", self.body.config)["block_out_channels"])
        return self.fold * 2 ** (levels - 1)

    @property
    def time_embedding(self) -> tuple[nn.Module, int]:
        """Of t alone."""
        return self.body.time_embedding, self.body.time_embedding.linear_2.out_features

    @property
    def last_layer(self) -> tuple[nn.Module, int, int]:
        """A convolution; the pixels of a square are together."""
        return self.body.conv_out, 1, self.fold**2

    def asked(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Unfolded."""
        words = self.text(cond)["hidden"]
        answer = self.body(self._folded(x), t * DIFFUSERS_TIME, encoder_hidden_states=words, return_dict=False)[0]
        return F.pixel_shuffle(answer, self.fold)

    def features(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The innermost block's output [B, T, feature_dim]; runs only what lies before it."""
        told, folded = self.text(cond)["hidden"], self._folded(x)

        def seen(body: Any, rows: Tensor | slice) -> Tensor:
            words, hidden = told[rows], folded[rows]
            with self.told(t, None):
                temb = body.time_embedding(body.get_time_embed(sample=hidden, timestep=t[rows] * DIFFUSERS_TIME))
            temb = temb + body.get_aug_embed(emb=temb, encoder_hidden_states=words, added_cond_kwargs={})
            words = body.process_encoder_hidden_states(encoder_hidden_states=words, added_cond_kwargs={})
            hidden = body.conv_in(hidden)
            for block in body.down_blocks:
                reads = {"encoder_hidden_states": words} if getattr(block, "has_cross_attention", False) else {}
                hidden = block(hidden_states=hidden, temb=temb, **reads)[0]
            return body.mid_block(hidden, temb, encoder_hidden_states=words).flatten(2).transpose(1, 2)

        with self.led(cond):
            return self.by_student(told, seen)

    def _folded(self, x: Tensor) -> Tensor:
        # Convolutions on a CPU are faster where a pixel's channels lie together.
        return F.pixel_unshuffle(x, self.fold).contiguous(memory_format=torch.channels_last)
