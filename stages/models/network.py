"""Networks that are trained here: one union of sizes, and the ways to build one."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from stages.core.rng import seeded
from stages.models.conditioning import LearnedText
from stages.models.table import Text
from stages.models.text import Clip, Convolutional
from stages.models.transformer import TransformerConfig, VelocityTransformer
from stages.models.unet import UNetConfig, VelocityUNet

NetworkConfig = Annotated[TransformerConfig | UNetConfig, Field(discriminator="kind")]
Network = VelocityTransformer | VelocityUNet
_CLASSES: Mapping[type, Any] = MappingProxyType({TransformerConfig: VelocityTransformer, UNetConfig: VelocityUNet})


def seeded_build(seed: int, cfg: TransformerConfig | UNetConfig, sample_shape: tuple[int, ...], text: Text) -> Network:
    """A fresh network that reads `text`, from `seed`, leaving torch's global stream as it was."""
    with seeded(seed):
        return _CLASSES[type(cfg)].build(cfg, sample_shape, text)


def seeded_teacher(
    seed: int,
    cfg: TransformerConfig | UNetConfig,
    sample_shape: tuple[int, ...],
    prompts: Sequence[str],
    text_encoder: Clip | Convolutional,
) -> Network:
    """The same with a text encoder of its own that learns with it; `prompts` begin with the empty one."""
    width, num_heads = cfg.text_size
    with seeded(seed):
        text = LearnedText(prompts, text_encoder, width=width, num_heads=num_heads)
        return _CLASSES[type(cfg)].build(cfg, sample_shape, text)
