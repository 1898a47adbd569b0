"""Optimal transport inside random batches: the pairs of least total squared distance.

Source: Tong et al. 2023 (arXiv:2302.00482), section 3.2, and Pooladian et al. 2023 (arXiv:2304.14772).
Differs: each batch's plan is used as the permutation it is, not sampled with replacement. Solver: POT's
exact network simplex.

With prompts, the pairing is of (noise, (x0, prompt)): given a prompt the noise is then no longer N(0, 1),
so a conditional model trained on these pairs is sampled slightly off its law, more so the larger the batch.
"""

import torch
from torch import Generator, Tensor

from stages.couplings.independent import independent

MAX_ITERATIONS = 10_000_000
"""Of the simplex; a batch of 4096 takes well under a million."""


def minibatch_ot(noise: Tensor, x0: Tensor, batch: int, rng: Generator) -> Tensor:
    """A random order [N], re-paired optimally inside each run of `batch` rows (1 leaves it random)."""
    if batch < 1:
        raise ValueError(f"minibatch_ot: a batch of {batch} samples has none to pair; set batch to 2 or more")
    order = independent(noise, x0, batch, rng)
    rows = torch.arange(len(noise)).split(batch)
    return torch.cat([order[row][assignment(noise[row], x0[order[row].to(x0.device)])] for row in rows])


def assignment(noise: Tensor, x0: Tensor) -> Tensor:
    """For noise i of a batch [B, ...] the index [B] of its x0, at least total squared distance."""
    import ot  # imports scikit-learn, seconds that only this coupling should pay

    cost = squared_distances(noise, x0)
    plan = ot.emd([], [], cost.numpy(), numItermax=MAX_ITERATIONS)
    chosen = torch.from_numpy(plan).argmax(dim=1)
    if len(chosen.unique()) != len(chosen):  # between equal weights an optimal plan is a permutation
        raise ValueError(f"minibatch_ot: no optimum found for {len(chosen)} samples; set a smaller batch")
    return chosen


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """||a_i - b_j||^2 over all elements, float64 [A, B], on the CPU."""
    a, b = (v.detach().flatten(1).double().cpu() for v in (a, b))
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
