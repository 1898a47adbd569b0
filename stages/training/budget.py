"""How long and how carefully a training trains: its budget."""

import math

from stages.core.config import config
from stages.core.ranges import Count, Decay, NonNegativeCount, Positive, Unit
from stages.training.networks import Precision


@config
class Budget:
    """How long and how carefully to train; the same words for every method."""

    iterations: Count
    ema: Decay
    """Decay of the student's evaluation average; 0 keeps the last weights."""
    clip: Positive
    """Largest gradient norm of a phase."""
    warmup: NonNegativeCount
    """Iterations over which learning rates rise from 0."""
    final_lr: Unit
    """Learning rates end at this fraction of their value, along a half cosine; 1 keeps them."""
    precision: Precision
    """What networks compute in; their answers, losses, weights and averages are float32. A checkpoint that is held in
    bfloat16 computes in that whatever is said here."""
    slices: Count
    """Equal parts of a batch, each with its own random numbers, whose gradients are averaged; 1 is the plain batch.
    They bound memory, and workers share them: the result depends on their number, not on that of workers."""

    def lr_factor(self, iteration: int) -> float:
        """What multiplies every learning rate in `iteration` (from 0)."""
        rise = min(1.0, (iteration + 1) / self.warmup) if self.warmup else 1.0
        fall = 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))
        return rise * (self.final_lr + (1 - self.final_lr) * fall)

    def check_slices(self, what: str, count: int) -> None:
        """ValueError unless `count`, which parameter `what` states, falls into `slices` equal parts."""
        if count % self.slices:
            raise ValueError(f"budget.slices={self.slices} does not divide {what}={count}; name a divisor of {count}")
