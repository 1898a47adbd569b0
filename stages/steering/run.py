"""Steered samples of a model for its prompts, with what they cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from stages.core.guidance import both, guided
from stages.core.precision import Wide
from stages.core.prompts import Prompt
from stages.core.spec import SamplerSpec
from stages.core.types import Cond, Reward
from stages.models import Student
from stages.models.space import Points
from stages.samplers import rule_of
from stages.samplers.of_tokens import OfTokens, suits
from stages.samplers.student import Noise
from stages.steering.task import Draws, Found, Search, Task, takes_tokens


@dataclass(frozen=True)
class Searched:
    """A batch's samples, and what they cost."""

    found: Found
    task: Task


def steered(  # noqa: PLR0913 - a model's prompts, what steers, and how many at a time
    model: Student,
    cond: Cond,
    prompts: Sequence[Prompt],
    noise: Noise,
    *,
    steering: Search,
    reward: Reward | None,
    batch_size: int,
) -> Iterator[Searched]:
    """Batches of one sample a prompt, for the rows cond [n, 1], whose `prompts` the reward reads, if there is one.

    `batch_size` prompts at a time, each with as many particles as the steering has. ValueError for a steering that
    cannot act along the model's rule.
    """
    spec, device = model.spec, next(chain(model.net.parameters(), model.net.buffers())).device
    rule, cond = rule_of(spec.rule), cond.to(device)
    wide = Wide(model.net)
    velocity = guided(wide, spec.guidance)
    fits(steering, spec)
    suits(rule, model.space.noising)
    for first in range(0, len(cond), batch_size):
        rows, asked = cond[first : first + batch_size], prompts[first : first + batch_size]
        draws = Draws(noise, first, len(rows), model.space.shape, torch.zeros((), device=device))
        task = Task(
            velocity=lambda x, t, of, rows=rows, **until: velocity(x, t, rows[of], **until),
            branches=lambda x, t, of, rows=rows: both(wide, x, t, rows[of]),
            score=partial(_scored, reward, model.space, asked),
            draws=draws,
            times=spec.times,
            rule=rule,
        )
        with torch.no_grad():
            yield Searched(steering.search(task), task)


def _scored(reward: Reward | None, space: Points, asked: Sequence[Prompt], x0: Tensor, of: Tensor) -> Tensor:
    assert reward is not None, "a steering that states no reward asks for none"
    return reward(space.decode(x0), [asked[row] for row in of.tolist()])


def fits(steering: Search, spec: SamplerSpec) -> None:
    """ValueError where a steering cannot act along a sampler."""
    if isinstance(rule_of(spec.rule), OfTokens) and not takes_tokens(steering):
        raise ValueError(
            f"steering {steering.name!r}: acts along a flow, and rule {spec.rule['name']} is one of tokens; best_of_n "
            "and fk take those"
        )
    if spec.field is not None:
        raise ValueError(
            f"steering {steering.name!r}: asks the network itself, and the sampler has the field "
            f"{spec.field['name']!r} in its place; leave one of the two out"
        )
    why = steering.serves(spec)
    if why is not None:
        raise ValueError(f"steering {steering.name!r} cannot act along the rule {spec.rule['name']!r}: {why}")
