"""Networks and their file formats: the only room that knows diffusers and transformers, or converts times and signs."""

from stages.models.store import Student, load, save

__all__ = ["Student", "load", "save"]
