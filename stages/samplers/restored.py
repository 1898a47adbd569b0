"""Pictures restored: a model that is told coarse ones (`teacher=restoration`) is sampled beside them.

`begin` says where: at pure noise, or, as diffusion of the residual does, at the second time of the model's sampler,
with the coarse picture in the place of the clean one: (1 - t) y + t eps. That saves a call, and is off by (1 - t) (x0 -
y), which is little where t is near 1. It is also shallow diffusion (Liu et al. 2021, arXiv:2105.02446) from there.
"""

from typing import Literal

import torch
from torch import Tensor

from stages.core.path import LINEAR, mix
from stages.core.precision import Wide
from stages.core.types import Cond
from stages.models import Student
from stages.samplers import rule_of, sample
from stages.samplers.field import ForSteps
from stages.samplers.of_tokens import suits
from stages.samplers.prompted import Prompted
from stages.samplers.student import Noise

Begin = Literal["noise", "picture"]


@torch.no_grad()
def restored(model: Student, cond: Cond, coarse: Tensor, noise: Noise, *, begin: Begin = "noise") -> Tensor:
    """Samples [n, ...] of the model's space, told the `coarse` ones [n, ...], one a row of cond [n, 1].

    ValueError where the model is told no pictures, its sampler has a field, or nothing is left behind the second time.
    """
    spec, rule, x = model.spec, rule_of(model.spec.rule), noise.at(0, len(cond), model.space.shape).to(coarse)
    if getattr(model.net, "latent_variable", None) is None or rule.name == "ddgan":  # which tells it noise
        raise ValueError("the model is told no pictures; make one that is: teacher=restoration")
    suits(rule, None)
    if spec.field:
        raise ValueError(f"field={spec.field['name']}: it answers for networks that are told nothing; leave it out")
    times = spec.times
    if begin == "picture":
        if spec.num_steps < 2:
            raise ValueError("a sampler of one step begins at pure noise; take two, or begin=noise")
        x, times = mix(coarse, x, coarse.new_full((len(x),), times[1])), times[1:]
        if isinstance(rule, ForSteps):
            rule.fits(len(times) - 1)
    net = Prompted(Wide(model.net), cond, spec.guidance)

    def velocity(x: Tensor, t: Tensor, **until: Tensor) -> Tensor:
        return net(x, t, z=coarse, **until)

    return sample(
        velocity, x, times, rule, path=LINEAR, rng=lambda node, x: noise.at(0, len(x), tuple(x.shape[1:]), node).to(x)
    ).x0
