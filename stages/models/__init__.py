"""Networks and their file formats: nothing else knows diffusers and transformers, or converts times and signs."""

from stages.models.store import Student, load, sampler, save

__all__ = ["Student", "load", "sampler", "save"]
