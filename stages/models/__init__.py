"""Networks and their file formats: nothing else knows diffusers and transformers, or converts times and signs."""

from stages.models.latents import samples
from stages.models.lookup import table_of
from stages.models.store import Student, encoder_of, load, sampler, save, space_of
from stages.models.table import Text, TextTable

__all__ = [
    "Student", "Text", "TextTable", "encoder_of", "load", "sampler", "samples", "save", "space_of", "table_of",
]  # fmt: skip
