"""Distillation methods by name. A new method is a new file and one line here."""

from types import MappingProxyType

from stages.distillers import (
    boot,
    boss,
    cd,
    ctm,
    dmd2,
    ect,
    kd,
    meanflow,
    oftsr,
    perflow,
    progressive,
    rectified,
    scm,
    shortcut,
    slimflow,
    tdm,
)

METHODS = MappingProxyType(
    {
        "kd": kd,
        "rectified": rectified,
        "perflow": perflow,
        "slimflow": slimflow,
        "boss": boss,
        "progressive": progressive,
        "boot": boot,
        "cd": cd,
        "ect": ect,
        "ctm": ctm,
        "scm": scm,
        "shortcut": shortcut,
        "meanflow": meanflow,
        "oftsr": oftsr,
        "dmd2": dmd2,
        "tdm": tdm,
    }
)
