"""The law that `teleport` jumps by: the moments of a model's samples.

Of rank 0 it is one variance of all numbers, else also the directions in which the samples vary most. The mean is the
samples', or of each sample what the network takes for the data at pure noise: what varies is then what the prompt
leaves open. That is one call a sample; the samples' own mean is none. A student can carry rank 0 and a network's mean.
Source: Wang & Vastola 2024 (arXiv:2412.09726).
Differs: what varies in the other directions is their mean variance, as in probabilistic principal components (Tipping &
Bishop 1999), and not none.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.path import LINEAR
from stages.core.ranges import Count, Guidance, Steps
from stages.samplers.field import Field
from stages.samplers.fits.model import Fitting
from stages.samplers.gaussian import GaussianLaw
from stages.samplers.grid import build
from stages.samplers.heun import EdmHeun
from stages.samplers.schedules import AnySchedule
from stages.samplers.solvers import Solver
from stages.samplers.spec import Sampler
from stages.samplers.teleport import Teleport


@config
class FitTeleport:
    """The sampler without its law, and what that is measured on."""

    name: Literal["teleport"]
    then: Annotated[Solver | EdmHeun, Knob(discriminator="name")]
    schedule: AnySchedule
    guidance: Guidance
    skipped: Steps
    num_samples: Count
    rank: Annotated[int, Knob(ge=0, le=10_000)]
    """Directions."""
    mean: Literal["data", "network"]

    def most_steps(self, calls: int) -> int:
        """As many as of the rule that is made."""
        return self.skipped + calls - (self.mean == "network")

    @torch.no_grad()
    def fitted(self, model: Fitting) -> Sampler:
        """See `Fit`. ValueError where there are fewer directions than asked for, or more numbers than are held."""
        if self.mean == "data":
            law = moments(model.x0, self.rank)
        else:
            data = Field(model.under(self.guidance), build(LINEAR, self.schedule.times()), model.noise)
            law = spread(model.x0 - data.data(model.noise, 0), self.rank, None)
        rule = Teleport(name="teleport", skipped=self.skipped, law=law, then=self.then)
        return Sampler(rule=rule, schedule=self.schedule, guidance=self.guidance)


def moments(x0: Tensor, rank: int) -> GaussianLaw:
    """Of samples x0 [n, ...], about their mean; ValueError where they have fewer than `rank` directions."""
    rows = x0.flatten(1).double().cpu()
    mean = rows.mean(dim=0) if rank else rows.mean()[None]
    return spread(rows - mean, rank, tuple(mean.tolist()))


def spread(apart: Tensor, rank: int, mean: tuple[float, ...] | None) -> GaussianLaw:
    """Of what samples are away [n, ...] from a mean; ValueError as above."""
    rows = apart.flatten(1).double().cpu()
    (count, size), total = rows.shape, rows.square().mean().item()
    if not rank:
        return GaussianLaw(mean=mean, rest=total, directions=(), variances=())
    if rank > min(count - 1, size):
        raise ValueError(
            f"rank={rank}: {count} samples of {size} numbers have {min(count - 1, size)} directions; lower it, or "
            "raise num_samples"
        )
    _, sizes, directions = torch.linalg.svd(rows, full_matrices=False)
    variances, left = sizes.square() / count, size - rank
    return GaussianLaw(
        mean=mean,
        rest=variances[rank:].sum().item() / left if left else 0.0,
        directions=tuple(map(tuple, directions[:rank].tolist())),
        variances=tuple(variances[:rank].tolist()),
    )
