"""Whether a rule draws noise: copies of a particle part by nothing else."""

import torch
from torch import Tensor

from stages.core.spec import SamplerSpec
from stages.samplers import rule_of, sample
from stages.samplers.field import blank

ADVICE = "it draws no noise, so that copies of a state stay the same; take flow_sde, ddim or another rule that draws"


def why_not_noisy(spec: SamplerSpec) -> str | None:
    """Why a rule cannot serve, if it steps without noise."""
    drawn = []

    def draw(_node: int, x: Tensor) -> Tensor:
        drawn.append(x)
        return torch.zeros_like(x)

    rule = rule_of(spec.rule)
    sample(lambda x, _t, **_until: x, blank(rule), spec.times, rule, rng=draw)
    return None if drawn else ADVICE
