"""Networks and their file formats: nothing else knows diffusers and transformers, or converts times and signs."""

from stages.models.conditioning import TextTable
from stages.models.latents import samples
from stages.models.store import Student, encoder_of, load, sampler, save, space_of

__all__ = ["Student", "TextTable", "encoder_of", "load", "sampler", "samples", "save", "space_of"]
