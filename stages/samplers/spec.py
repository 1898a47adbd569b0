"""A sampler as parameters state it: a step rule, a schedule, guidance, maybe a field, each with the knobs it has."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from stages.core.config import config
from stages.core.noising import Noising
from stages.core.path import LINEAR
from stages.core.ranges import Guidance
from stages.core.spec import SamplerSpec
from stages.samplers import FromNoise, drive, rule_of
from stages.samplers.boundary_condition import tells_apart
from stages.samplers.distillation_plus import ASKS_BESIDE
from stages.samplers.field import Adaptive, ForSteps, blank, numbers_of
from stages.samplers.fields import AnyField, field_of, over
from stages.samplers.fields.nasa import NASA
from stages.samplers.fields.t_stitch import TStitch
from stages.samplers.flow_map import OF_AVERAGES
from stages.samplers.grid import build
from stages.samplers.of_tokens import OfTokens, Unmasking, suits
from stages.samplers.prompted import Prompted
from stages.samplers.schedules import AnySchedule


def calls(spec: SamplerSpec) -> float:
    """Samples through a network that one sample takes, a guided call twice; the most, where the sampler looks at it."""
    rule = rule_of(spec.rule)
    if isinstance(rule, Adaptive):
        return rule.most_calls(spec.num_steps) * (1 if spec.guidance == 1 else 2)
    stream, noise = torch.Generator().manual_seed(0), blank(rule)
    network = _Counted(lambda x, *_, **_until: x, torch.zeros(1, 1, dtype=torch.int64), spec.guidance)
    answers = field_of(spec.field)
    field = over(answers if answers and answers.fixed else None)(network, build(LINEAR, spec.times), noise)
    return drive(field, noise, rule, rng=stream).cost


class _Counted(Prompted):
    """What a companion takes is not known before there is one: at most what the network does."""

    @property
    def share_beside(self) -> float:
        return 1.0

    def beside(self, x: Tensor, _t: Tensor, _guidance: float, _told: Tensor | None = None) -> Tensor:
        return x


@runtime_checkable
class Sparing(Protocol):
    """A rule, or a fit of one, that takes some steps without the network."""

    def most_steps(self, calls: int, /) -> int:
        """From noise to data, that may fit into so many calls."""
        ...


def most_steps(rule: object, calls: int) -> int:
    """Steps of a rule, or of what a fit makes, that may fit into so many calls; a rule that makes more has fewer."""
    return rule.most_steps(calls) if isinstance(rule, Sparing) else calls


@config
class Sampler:
    """How a model is sampled from noise to data."""

    rule: Annotated[FromNoise, Field(discriminator="name")]
    schedule: AnySchedule
    guidance: Guidance
    """Classifier-free guidance; 1 is none."""
    field: AnyField | None = None
    """What answers for the velocity in the network's place; none is the network itself."""

    def __post_init__(self) -> None:
        num_steps = len(self.schedule.times()) - 1
        if isinstance(self.rule, ForSteps):
            self.rule.fits(num_steps)
        if self.field is None:
            return
        takes = None
        if self.field.tokens and not isinstance(self.rule, Unmasking):
            takes = "the field is for rules that unmask tokens"
        elif not self.field.tokens and isinstance(self.rule, OfTokens):
            takes = "fields of flows do not answer for tokens"
        if takes:
            raise ValueError(f"field={self.field.name}, rule={self.rule.name}: {takes}; leave the field out")
        self.field.fits(num_steps, self.guidance)
        if isinstance(self.rule, Adaptive):
            raise ValueError(
                f"field={self.field.name}: rule {self.rule.name} calls the network at times of its own, where "
                "no field answers for it; leave the field out"
            )
        asked = {**dict.fromkeys(OF_AVERAGES, "for averages"), "ddgan": "with noise of its own"}.get(self.rule.name)
        if asked:
            raise ValueError(
                f"field={self.field.name}: rule {self.rule.name} asks the network {asked}, which no field answers for; "
                "leave the field out"
            )

    @property
    def asks_beside(self) -> bool:
        """Whether it asks a model for the other network that it carries."""
        stitched = isinstance(self.field, TStitch) and self.field.mean is None
        return self.rule.name in ASKS_BESIDE or stitched

    def names_all(self) -> None:
        """ValueError where it is for a negative prompt or for pictures, neither of which a stage names."""
        tells_apart(self.rule)
        if isinstance(self.field, NASA):
            raise ValueError("field=nasa leads away from a negative prompt, and a stage names none; leave it out")

    def takes(self, shape: Sequence[int], *, tokens: Noising | None = None) -> None:
        """ValueError where it is for samples of another kind or size than a teacher's, or asks it for more than it has.

        `shape` is that of one sample.
        """
        suits(self.rule, tokens)
        self.names_all()
        if self.asks_beside:
            raise ValueError("it asks another network too, and a teacher carries none; take another rule or field")
        numbers, size = numbers_of(self.rule), math.prod(shape)
        if numbers not in (1, size):
            raise ValueError(
                f"rule {self.rule.name} is for samples of {numbers} numbers, and the model's have {size}; fit one to it"
            )

    @property
    def stated(self) -> dict[str, Any]:
        """As parameters state it."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def spec(self) -> SamplerSpec:
        """The same with its times made, as a model carries it."""
        times = tuple(self.schedule.times().tolist())
        return SamplerSpec(
            rule=asdict(self.rule),
            schedule=asdict(self.schedule),
            times=times,
            guidance=self.guidance,
            field=self.field and asdict(self.field),
        )
