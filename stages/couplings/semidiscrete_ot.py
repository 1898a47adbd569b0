"""Optimal transport from the whole law of the noise, not from draws of it, to a batch of samples.

Source: DPM-OT, Li et al. 2023 (arXiv:2307.11308), after Brenier: T(e) = y_i with i = argmax <e, y_i> + h_i is optimal
for the masses that its cells have, and h is found for equal ones by gradient ascent, whose gradient is 1 / M less the
share of fresh noises that fall into a cell. So noise keeps its law, and a sample is used once on average only.

Differs: targets are samples, not samples diffused to a low level from which a sampler goes on; a set number of steps,
whose size falls to 0 (the code: more draws and smaller steps where it stalls). A step costs DRAWS M^2 d products.
"""

import torch
from torch import Generator, Tensor

from stages.couplings.independent import independent

DRAWS, LEAST_DRAWS = 16, 4096
"""Fresh noises a step, for each sample and in all."""
STEPS = 200
LARGEST_STEP = 0.1
"""Of Adam on h, over the samples' root mean square distance from their mean: h is a product of noise and sample."""


def semidiscrete_ot(noise: Tensor, x0: Tensor, batch: int, rng: Generator) -> Tensor:
    """For noise i the index [N] of its x0: each run of `batch` noises, with the same run of a random order."""
    if batch < 1:
        raise ValueError(f"semidiscrete_ot: a batch of {batch} samples has none to pair; set batch to 2 or more")
    order = independent(noise, x0, batch, rng)
    made = []
    for row in torch.arange(len(noise)).split(batch):
        mine = order[row]
        targets = x0[mine.to(x0.device)]
        made.append(mine[cells(noise[row], targets, potential(targets, rng))])
    return torch.cat(made)


def cells(noise: Tensor, targets: Tensor, h: Tensor) -> Tensor:
    """For each noise [N, ...] the target [M, ...] in whose cell it lies, int64 [N], under heights h [M]."""
    e, y = (v.detach().flatten(1).float().cpu() for v in (noise, targets))
    return (e @ y.T + h).argmax(dim=1)


def potential(targets: Tensor, rng: Generator) -> Tensor:
    """Heights h [M], of mean 0, under which standard normal noise falls into each target's cell equally often."""
    y = targets.detach().flatten(1).float().cpu()
    count, size = y.shape
    squares = (y - y.mean(dim=0)).square().sum(dim=1)
    h = -0.5 * squares  # cells of the nearest target, were the noise about their mean
    spread = squares.mean().sqrt().item()
    ascent = torch.optim.Adam([h], lr=LARGEST_STEP * spread, eps=1e-12, maximize=True)
    fall = torch.optim.lr_scheduler.LinearLR(ascent, 1.0, 0.0, STEPS)
    num_draws = max(DRAWS * count, LEAST_DRAWS)
    for _ in range(STEPS):
        drawn = cells(torch.randn(num_draws, size, generator=rng), y, h)
        h.grad = 1 / count - drawn.bincount(minlength=count) / len(drawn)
        ascent.step()
        fall.step()
    return h - h.mean()
