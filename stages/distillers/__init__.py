"""Distillation methods by name. A new method is a new file and one line here."""

from types import MappingProxyType

from stages.distillers import kd, rectified, tdm

METHODS = MappingProxyType({"kd": kd, "rectified": rectified, "tdm": tdm})
