"""Distillation methods by name. A new method is a new file and one line here."""

from types import MappingProxyType

from stages.distillers import cd, dmd2, kd, meanflow, rectified, tdm

METHODS = MappingProxyType(
    {"kd": kd, "rectified": rectified, "cd": cd, "dmd2": dmd2, "tdm": tdm, "meanflow": meanflow},
)
