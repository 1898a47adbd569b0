"""Distillation methods by name. A new method is a new file and one line here."""

from types import MappingProxyType

from stages.distillers import (
    boot,
    cd,
    ctm,
    dmd2,
    ect,
    kd,
    meanflow,
    perflow,
    progressive,
    rectified,
    scm,
    shortcut,
    tdm,
)

METHODS = MappingProxyType(
    {
        "kd": kd,
        "rectified": rectified,
        "perflow": perflow,
        "cd": cd,
        "shortcut": shortcut,
        "meanflow": meanflow,
        "dmd2": dmd2,
        "tdm": tdm,
        "scm": scm,
        "ect": ect,
        "ctm": ctm,
        "progressive": progressive,
        "boot": boot,
    }
)
