"""Pairs that a training makes for itself, of its own teacher, with as much of their trajectories as it asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Count
from stages.core.rng import stream
from stages.core.spec import SamplerSpec
from stages.io.dataset import Dataset
from stages.io.steps import Steps
from stages.models import Student
from stages.samplers.spec import Sampler
from stages.samplers.student import Noise, solutions
from stages.training.method import BEST

_BATCH = 256
"""Trajectories that are solved together."""


@config
class Draw:
    """Pairs made of the arm's own teacher before training, as a chain of students needs them."""

    num_pairs: Count
    sampler: Sampler

    def __post_init__(self) -> None:
        self.sampler.names_all()

    def has_nodes(self, spec: SamplerSpec, searched: int | None, where: str) -> None:
        """ValueError unless the states at the nodes of a student's sampler `spec` are among the trajectories'.

        `searched` are the steps of the grid in which the best nodes were found.
        """
        here, num_steps = f"{where}.draw.sampler", self.sampler.spec.num_steps
        if (self.sampler.rule.name, self.sampler.schedule.name) != ("euler", "uniform"):
            raise ValueError(f"{here}: nodes lie on equal steps of Euler's rule; take rule euler, schedule uniform")
        if is_best(spec) and num_steps != searched:
            raise ValueError(f"{here}: steps were searched for in a grid of {searched}, and this has {num_steps}")
        if is_best(spec) and spec.num_steps > num_steps:
            raise ValueError(f"{here}: the student's {spec.num_steps} steps are not among its {num_steps}")
        if not is_best(spec) and num_steps % spec.num_steps:
            raise ValueError(f"{here}: its {num_steps} steps are no multiple of the student's {spec.num_steps}")

    def nodes(self, spec: SamplerSpec, found: Steps | None) -> Sequence[int]:
        """Where in the trajectories' grid the nodes of a student's sampler are."""
        self.has_nodes(spec, found and len(found.times) - 1, "arm")
        if found:
            return found.nodes[spec.num_steps - 1]
        return range(0, self.sampler.spec.num_steps + 1, self.sampler.spec.num_steps // spec.num_steps)


def is_best(spec: SamplerSpec) -> bool:
    """Whether a sampler's times are yet to be taken from what a search found for as many steps."""
    return spec.schedule["name"] == BEST


def on_nodes(spec: SamplerSpec, found: Steps | None) -> SamplerSpec:
    """A student's sampler with the times that were found for it, if it takes those."""
    if found is None:
        return spec
    times = tuple(found.times[i] for i in found.nodes[spec.num_steps - 1])
    return replace(spec, schedule={"name": "explicit", "at": list(times)}, times=times)


@dataclass(frozen=True)
class Drawn:
    """Pairs that are all here, in one part."""

    part: Mapping[str, Tensor]
    """Of all, what `read` says."""
    prompts: Sequence[str]
    """One a pair."""

    @property
    def rows(self) -> Sequence[int]:
        """Pairs in the one part."""
        return [len(self.prompts)]

    def read(self, _number: int) -> Mapping[str, Tensor]:
        """The part: noise and x0 [N, ...], prompt_index [N]; with nodes, states [N, K, ...] and their times [N, K]."""
        return self.part


def drawn(how: Draw, seed: int, dataset: Dataset, teacher: Student, nodes: Sequence[int] = ()) -> Drawn:
    """Pairs of `teacher`, for prompts as frequent as in training, with the states at `nodes` of the sampler's grid."""
    asked, rng = dataset.asked, stream(seed, "distill/prompts")
    places = asked[torch.randint(len(asked), (how.num_pairs,), generator=rng)]
    noise, spec = Noise(seed, "distill/pairs"), how.sampler.spec
    solved = list(solutions(replace(teacher, spec=spec), dataset.rows(places), noise, batch_size=_BATCH, keep=nodes))
    part = {
        "noise": noise.at(0, how.num_pairs, teacher.space.shape),
        "x0": torch.cat([each.x0 for each in solved]).cpu(),
        "prompt_index": torch.arange(how.num_pairs),
    }
    if nodes:
        part["states"] = torch.cat([each.states.cpu() for each in solved], dim=1).transpose(0, 1).contiguous()
        part["times"] = torch.tensor([spec.times[i] for i in nodes]).to(part["x0"]).repeat(how.num_pairs, 1)
    return Drawn(part, dataset.texts(places))
