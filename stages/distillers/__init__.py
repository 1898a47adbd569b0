"""Distillation methods by name. A new method is a new file and one line here."""

from types import MappingProxyType

from stages.distillers import (
    alpha_flow,
    boot,
    boss,
    cd,
    ctm,
    diff_instruct,
    disback,
    dmd,
    dmd2,
    ect,
    f_distill,
    kd,
    ladd,
    meanflow,
    mmd,
    oftsr,
    perflow,
    progressive,
    rectified,
    scm,
    shortcut,
    sim,
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
        "dmd": dmd,
        "diff_instruct": diff_instruct,
        "f_distill": f_distill,
        "sim": sim,
        "disback": disback,
        "ladd": ladd,
        "mmd": mmd,
        "alpha_flow": alpha_flow,
    }
)
