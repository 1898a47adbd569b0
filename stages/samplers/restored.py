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
from stages.samplers.boundary_condition import BoundaryCondition
from stages.samplers.field import ForSteps, VelocityAt
from stages.samplers.of_tokens import suits
from stages.samplers.prompted import Prompted
from stages.samplers.student import Noise

Begin = Literal["noise", "picture"]
_TOLD_NONE = "the model is told no pictures; make one that is: teacher=restoration"


@torch.no_grad()
def restored(model: Student, cond: Cond, coarse: Tensor, noise: Noise, *, begin: Begin = "noise") -> Tensor:
    """Samples [n, ...] of the model's space, told the `coarse` ones [n, ...], one a row of cond [n, 1].

    ValueError where the model is told no pictures, its sampler has a field, or nothing is left behind the second time.
    """
    spec, rule, x = model.spec, rule_of(model.spec.rule), noise.at(0, len(cond), model.space.shape).to(coarse)
    if rule.name == "ddgan":  # which tells it noise
        raise ValueError(_TOLD_NONE)
    net = telling(Prompted(Wide(model.net), cond, spec.guidance), coarse)
    suits(rule, None)
    if spec.field:
        raise ValueError(f"field={spec.field['name']}: it answers for networks that are told nothing; leave it out")
    times = spec.times
    if begin == "picture":
        if isinstance(rule, BoundaryCondition):
            raise ValueError(f"rule {rule.name} begins at a noise of its own; take begin=noise, or another rule")
        if spec.num_steps < 2:
            raise ValueError("a sampler of one step begins at pure noise; take two, or begin=noise")
        x, times = mix(coarse, x, coarse.new_full((len(x),), times[1])), times[1:]
        if isinstance(rule, ForSteps):
            rule.fits(len(times) - 1)
    return sample(
        net, x, times, rule, path=LINEAR, rng=lambda node, x: noise.at(0, len(x), tuple(x.shape[1:]), node).to(x)
    ).x0


def telling(network: Prompted, coarse: Tensor) -> VelocityAt:
    """The network's velocity, told the `coarse` pictures [n, ...]; ValueError where it is told none."""
    net = network.net.velocity if isinstance(network.net, Wide) else network.net
    if getattr(net, "latent_variable", None) is None:
        raise ValueError(_TOLD_NONE)
    return lambda x, t, **until: network(x, t, z=coarse, **until)
