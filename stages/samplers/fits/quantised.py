"""Scales of a network's activations, measured where it is asked: at states of a run, at times that dwell near the data.

Source: PTQ4DM (Shang et al. 2022, arXiv:2211.15736) and its code: one state of each sample, at a time of a normal law,
mean 0.4 and standard deviation 0.4; scales are those of the least mean squared error.
Differs: times beyond 0 and 1 are drawn again, where its code has a sixth of them at the end; a state goes with its own
time, where its code has them mirrored; prompts are those of use, and under guidance the empty one too.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field as Knob
from torch import Generator, Tensor, nn

from stages.core.config import config
from stages.core.path import LINEAR
from stages.core.precision import Wide
from stages.core.ranges import Count, Guidance, Positive, Unit
from stages.models.quantised import best_scale, layers
from stages.samplers import FromNoise, drive
from stages.samplers.boundary_condition import tells_apart
from stages.samplers.distillation_plus import ASKS_BESIDE
from stages.samplers.field import Adaptive, Field
from stages.samplers.fields.quantised import Bits, Quantised
from stages.samplers.fits.model import Fitting
from stages.samplers.flow_map import OF_AVERAGES
from stages.samplers.grid import build
from stages.samplers.schedules import AnySchedule
from stages.samplers.spec import Sampler

_SEEN = 2**16
"""Numbers of a layer that its scale is measured on, evenly out of all."""


@config
class FitQuantised:
    """The sampler, the bits, and where the network is looked at."""

    name: Literal["quantised"]
    rule: Annotated[FromNoise, Knob(discriminator="name")]
    schedule: AnySchedule
    guidance: Guidance
    weight_bits: Bits
    activation_bits: Annotated[int, Knob(ge=2, le=16)]
    num_samples: Count
    mean: Unit
    """Of the times at which a state of each sample is seen,"""
    std: Positive
    """and how they spread; those outside of the run are drawn again."""

    def __post_init__(self) -> None:
        if isinstance(self.rule, Adaptive) or self.rule.name in (*OF_AVERAGES, *ASKS_BESIDE, "ddgan"):
            raise ValueError(f"rule {self.rule.name} asks the network otherwise than at nodes; take another rule")
        tells_apart(self.rule)

    @torch.no_grad()
    def fitted(self, model: Fitting) -> Sampler:
        """See `Fit`. ValueError where the network has no layers to round."""
        network, times = model.under(self.guidance), self.schedule.times()
        net = network.net.velocity if isinstance(network.net, Wide) else network.net
        found = layers(net)
        field = Field(network, build(LINEAR, times), model.noise)
        nodes = range(len(times) - 1)
        states = drive(field, model.noise, self.rule, keep=nodes, rng=model.rng("draws")).states
        wanted = truncated(len(model.noise), self.mean, self.std, model.rng("times"))
        at = (times[:-1, None] - wanted).abs().argmin(dim=0)
        x, t = states[at, torch.arange(len(at))], times[at].to(model.noise)
        with _watched(found) as seen:
            network(x, t)
        scales = tuple(best_scale(seen[name][None], self.activation_bits).item() for name in found)
        answers = Quantised(
            name="quantised", weight_bits=self.weight_bits, activation_bits=self.activation_bits, scales=scales
        )
        return Sampler(rule=self.rule, schedule=self.schedule, guidance=self.guidance, field=answers)


def truncated(count: int, mean: float, std: float, rng: Generator) -> Tensor:
    """[count] of the normal law inside of [0, 1], by its quantiles."""
    law = torch.distributions.Normal(torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64))
    low, high = law.cdf(torch.tensor(0.0)), law.cdf(torch.tensor(1.0))
    share = torch.rand(count, generator=rng, dtype=torch.float64, device=rng.device).cpu()
    return law.icdf(low + (high - low) * share).clamp(0, 1)


@contextmanager
def _watched(found: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """By name, what comes to each of the layers while it lasts, at most so many numbers of the last call."""
    seen = dict[str, Tensor]()

    def note(name: str, _layer: nn.Module, given: tuple[Tensor]) -> None:
        numbers = given[0].flatten()
        seen[name] = numbers[:: -(-len(numbers) // _SEEN)].float()

    hooks = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in found.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
