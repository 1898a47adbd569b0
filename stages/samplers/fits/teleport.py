"""The law that `teleport` jumps by: the moments of a model's samples, at no call.

Of rank 0 it is one mean and one variance of all numbers, which a student can carry where the mean is 0; else the mean
of each number and the directions in which the samples vary most.
Source: Wang & Vastola 2024 (arXiv:2412.09726).
Differs: what varies in the other directions is their mean variance, as in probabilistic principal components (Tipping &
Bishop 1999), and not none.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Count, Guidance, Steps
from stages.samplers.fits.model import Fitting
from stages.samplers.gaussian import GaussianLaw
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

    def fitted(self, model: Fitting) -> Sampler:
        """See `Fit`. ValueError where there are fewer directions than asked for, or more numbers than are held."""
        rule = Teleport(name="teleport", skipped=self.skipped, law=moments(model.x0, self.rank), then=self.then)
        return Sampler(rule=rule, schedule=self.schedule, guidance=self.guidance)


def moments(x0: Tensor, rank: int) -> GaussianLaw:
    """Of samples x0 [n, ...]; ValueError where they have fewer than `rank` directions."""
    rows = x0.flatten(1).double().cpu()
    if not rank:
        of_all = rows.mean()
        variance = (rows - of_all).square().mean().item()
        return GaussianLaw(mean=(of_all.item(),), rest=variance, directions=(), variances=())
    count, size = rows.shape
    if rank > min(count - 1, size):
        raise ValueError(
            f"rank={rank}: {count} samples of {size} numbers have {min(count - 1, size)} directions; lower it, or "
            "raise num_samples"
        )
    mean = rows.mean(dim=0)
    _, spreads, directions = torch.linalg.svd(rows - mean, full_matrices=False)
    variances = spreads.square() / count
    left = size - rank
    return GaussianLaw(
        mean=tuple(mean.tolist()),
        rest=max(variances[rank:].sum().item() / left, 0.0) if left else 0.0,
        directions=tuple(map(tuple, directions[:rank].tolist())),
        variances=tuple(variances[:rank].tolist()),
    )
