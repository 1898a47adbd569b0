"""Weights of the particles that stand for a prompt's law, and their resampling where few of them carry all of it."""

import math

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Unit
from stages.steering.resampling import RESAMPLERS, Resampler, effective
from stages.steering.task import Task


@config
class Resampling:
    """When particles are resampled, and how."""

    rule: Resampler
    threshold: Unit
    """Where the effective sample size is below this share of the particles: 0 is never, 1 whenever they differ."""


class Particles:
    """log weights [B, K]. A prompt's are resampled when they need it, and no other's."""

    def __init__(self, task: Task, count: int, resampling: Resampling) -> None:
        self.log_weights = torch.zeros(task.count, count, dtype=torch.float64, device=task.draws.like.device)
        self.least = self.log_weights.new_ones(task.count)
        """[B]: the least effective sample size so far, as a share."""
        self.resamplings = self.log_weights.new_zeros(task.count)
        self._log_evidence = self.log_weights.new_zeros(task.count)
        self._resampling, self._draws = resampling, task.draws

    @property
    def log_evidence(self) -> Tensor:
        """[B]: log of an unbiased estimate of the mean of all potentials' product."""
        return self._log_evidence + self._level()

    def weigh(self, log_potential: Tensor) -> None:
        """Multiply by potentials [B * K], given as logs."""
        self.log_weights = self.log_weights + log_potential.view_as(self.log_weights)
        self.least = torch.minimum(self.least, effective(self.log_weights))

    def ancestors(self, node: int) -> Tensor:
        """Rows [B * K] to go on from; those of a prompt that is not resampled are its own."""
        count = self.log_weights.shape[1]
        own = torch.arange(count, device=self.log_weights.device).expand_as(self.log_weights)
        poor = effective(self.log_weights) < self._resampling.threshold * (1 - 1e-9)  # equal weights are not poor
        if bool(poor.any()):
            uniform = self._draws.uniform(f"resampled{node}", count)
            drawn = RESAMPLERS[self._resampling.rule](self.log_weights.softmax(dim=1), uniform)
            own = torch.where(poor[:, None], drawn, own)
            self._log_evidence = torch.where(poor, self.log_evidence, self._log_evidence)
            self.log_weights = torch.where(poor[:, None], torch.zeros_like(self.log_weights), self.log_weights)
            self.resamplings = self.resamplings + poor
        first = count * torch.arange(len(own), device=own.device)[:, None]
        return (own + first).flatten()

    def one(self) -> Tensor:
        """[B]: one particle of each prompt, drawn by the weights: a sample of the law that they stand for."""
        return chosen(self.log_weights, self._draws.uniform("chosen", 1))

    def _level(self) -> Tensor:
        return self.log_weights.logsumexp(dim=1) - math.log(self.log_weights.shape[1])


def chosen(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """[B]: an index of each row of log weights [B, K], drawn by them with uniform numbers [B, 1]."""
    ends = log_weights.softmax(dim=1).cumsum(dim=1)
    return torch.searchsorted(ends, uniform * ends[:, -1:], right=True).clamp_max(log_weights.shape[1] - 1)[:, 0]
