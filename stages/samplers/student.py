"""Sampling a model as it wants to be sampled: its own grid, rule, guidance and field, for strings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from stages.core.path import LINEAR
from stages.core.precision import Wide
from stages.core.rng import normal_at
from stages.core.spec import SamplerSpec
from stages.core.types import Cond
from stages.models import Student
from stages.samplers import Solution, drive, rule_of
from stages.samplers.boundary_condition import tells_apart
from stages.samplers.fields import field_of, over
from stages.samplers.grid import build
from stages.samplers.of_tokens import OfTokens, suits
from stages.samplers.prompted import Prompted


@dataclass(frozen=True)
class Noise:
    """Noise that follows a sample's global index, so that batches and shards leave no trace."""

    seed: int
    name: str
    start: int = 0

    def at(self, first: int, count: int, shape: tuple[int, ...], node: int = 0) -> Tensor:
        """[count, *shape] from sample start + first on; `node` > 0 is what a rule draws on its way."""
        name = f"{self.name}/node{node}" if node else self.name
        return normal_at(self.seed, name, self.start + first, count, shape)


@torch.no_grad()
def solutions(
    model: Student,
    cond: Cond,
    noise: Noise,
    *,
    batch_size: int,
    keep: Sequence[int] = (),
    negative: Cond | None = None,
) -> Iterator[Solution]:
    """Batches of samples [<= batch_size, ...] of `model` for the prompts in rows cond [n, 1], in their order.

    Guidance leads away from those in rows `negative` [n, 1], or from the empty one. ValueError where its rule is for
    samples of another kind.
    """
    spec, shape, cond = model.spec, model.space.shape, cond.to(_device(model))
    suits(rule_of(spec.rule), model.space.noising)
    tells_apart(rule_of(spec.rule))
    grid, rule, answering = build(LINEAR, spec.times), rule_of(spec.rule), over(field_of(spec.field))
    for first in range(0, len(cond), batch_size):
        rows = cond[first : first + batch_size]
        x = noise.at(first, len(rows), shape).to(rows.device)
        away = None if negative is None else negative[first : first + batch_size].to(rows.device)
        yield drive(
            answering(Prompted(Wide(model.net), rows, spec.guidance, away), grid, x),
            x,
            rule,
            keep=keep,
            rng=lambda node, x, first=first: noise.at(first, len(x), shape, node).to(x),
        )


def simplest(own: SamplerSpec) -> dict[str, Any]:
    """The rule by which any model with a sampler of its `own` is shown in even steps: Euler's, or one of tokens."""
    return dict(own.rule) if isinstance(rule_of(own.rule), OfTokens) else {"name": "euler"}


def draw(model: Student, cond: Cond, noise: Noise, *, batch_size: int = 256, negative: Cond | None = None) -> Tensor:
    """Samples [n, ...] of the model's space, one a row of cond [n, 1]; `negative` as in `solutions`."""
    found = solutions(model, cond, noise, batch_size=batch_size, negative=negative)
    return torch.cat([solution.x0 for solution in found])


def _device(model: Student) -> torch.device:
    return next(chain(model.net.parameters(), model.net.buffers())).device
