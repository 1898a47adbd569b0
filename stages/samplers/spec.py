"""A sampler as parameters state it: a step rule, a schedule, guidance, each with the knobs that it has."""

from dataclasses import asdict
from typing import Annotated

import torch
from pydantic import Field

from stages.core.config import config
from stages.core.ranges import Guidance
from stages.core.spec import SamplerSpec
from stages.samplers import FromNoise, rule_of, sample
from stages.samplers.schedules import AnySchedule


def calls(spec: SamplerSpec) -> int:
    """Samples through a network that one sample takes: a guided call counts twice."""
    stream = torch.Generator().manual_seed(0)
    nfe = sample(lambda x, _t, **_until: x, torch.zeros(1, 1), spec.times, rule_of(spec.rule), rng=stream).nfe
    return nfe if spec.guidance == 1 else 2 * nfe


@config
class Sampler:
    """How a model is sampled from noise to data."""

    rule: Annotated[FromNoise, Field(discriminator="name")]
    schedule: AnySchedule
    guidance: Guidance
    """Classifier-free guidance; 1 is none."""

    @property
    def spec(self) -> SamplerSpec:
        """The same with its times made, as a model carries it."""
        times = tuple(self.schedule.times().tolist())
        return SamplerSpec(rule=asdict(self.rule), schedule=asdict(self.schedule), times=times, guidance=self.guidance)
