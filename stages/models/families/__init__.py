"""Families of diffusers checkpoints. A new one is a new file and one line here."""

from collections.abc import Mapping
from types import MappingProxyType

from stages.models.families.base import Family
from stages.models.families.sd3 import StableDiffusion3

_ALL: tuple[type[Family], ...] = (StableDiffusion3,)
FAMILIES: Mapping[str, Family] = MappingProxyType({family.pipeline: family() for family in _ALL})
"""By the pipeline's class, as model_index.json states it."""
