"""Families of diffusers checkpoints. A new one is a new file and one line here."""

from collections.abc import Mapping
from types import MappingProxyType

from stages.models.families.base import Family
from stages.models.families.cogvideox import CogVideoX
from stages.models.families.flux import Flux
from stages.models.families.flux2 import Flux2, Flux2Klein
from stages.models.families.hunyuan_video import HunyuanVideo
from stages.models.families.ltx import LTX
from stages.models.families.pixart import PixArtAlpha, PixArtSigma
from stages.models.families.qwen import QwenImage
from stages.models.families.sana import Sana
from stages.models.families.sd import StableDiffusion, StableDiffusionXL
from stages.models.families.sd3 import StableDiffusion3
from stages.models.families.wan import Wan
from stages.models.families.z_image import ZImage

_ALL: tuple[type[Family], ...] = (
    StableDiffusion, StableDiffusionXL, PixArtAlpha, PixArtSigma, StableDiffusion3, Flux,
    QwenImage, Wan, Sana, ZImage, Flux2, Flux2Klein, CogVideoX, LTX, HunyuanVideo,
)  # fmt: skip
FAMILIES: Mapping[str, Family] = MappingProxyType({family.pipeline: family() for family in _ALL})
"""By the pipeline's class, as model_index.json states it."""
