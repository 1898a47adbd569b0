"""A many-step surrogate that learns a group's preference, for students that may not learn it themselves.

The denoising loss of a sample stands in for its likelihood only where a network answers means, as a many-step model
does; a few-step student answers samples, and would blur. So the preference is learnt by a "surrogate" that starts as
the teacher, and the student follows what it differs in: D_surrogate - D_teacher. At levels and noises that a group
shares, with l and l_teacher the squared errors of a sample,
 W = sigmoid(mean over the group of A beta (l - l_teacher)), sg
 loss = mean W A l + beta_kl mean |v - v_teacher|^2
where l has no gradient once it has moved beyond the clip from that of "old", a slow average, in the direction that A
asks for, nor where |v - v_teacher|^2 is above a bound. It is DGPO's loss (arXiv:2510.08425), of TDM-R1's surrogate
(arXiv:2603.07700).
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from stages.core.advantage import grouped, numbered
from stages.core.matching import per_sample
from stages.core.path import expand
from stages.core.types import Batch, Cond, World
from stages.training.groups import clipped_error, group_weight
from stages.training.method import Follower, Loss, Role, Trained


class Preferring(Protocol):
    """What a configuration says of its surrogate."""

    @property
    def beta(self) -> float:
        """Sharpness of the group's weight W."""
        ...

    @property
    def beta_kl(self) -> float:
        """Weight of mean |v - v_teacher|^2."""
        ...

    @property
    def clip_range(self) -> float:
        """A sample counts while exp(l_old - l) lies within 1 + c (A > 0) or above 1 - c (A <= 0)."""
        ...

    @property
    def drift_bound(self) -> float:
        """A sample counts while |v - v_teacher|^2, a mean over elements, is below it."""
        ...

    @property
    def old_decay(self) -> float:
        """Largest weight of the slow average on its own past."""
        ...

    @property
    def old_decay_rate(self) -> float:
        """That weight is this times the number of updates so far."""
        ...

    @property
    def surrogate_lr(self) -> float:
        """AdamW's step size."""
        ...


def preferred(
    world: World,
    batch: Batch,
    at: tuple[Tensor, Tensor],
    residual: Callable[[Tensor], Tensor],
    cfg: Preferring,
    weight: Tensor | None = None,
) -> Loss:
    """The loss at (x_t [B, ...], t [B]), which groups share; `residual` is what is squared, of a velocity [B, ...].

    `weight` [B] of samples is 1 by default.
    """
    cond, advantage, group = batch["cond"], batch["advantage"], batch["group"]
    v = world.nets["surrogate"](*at, cond)
    with torch.no_grad():
        v_teacher = world.nets["teacher"](*at, cond)
        old_error, base_error = (
            per_sample(residual(each).square()) for each in (world.nets["old"](*at, cond), v_teacher)
        )
    error = per_sample(residual(v).square())
    excess = grouped(error.detach() - base_error, group)
    of_group = group_weight(excess, grouped(advantage, group), cfg.beta).squeeze(1)[numbered(group)]
    kept, far = clipped_error(error, old_error, advantage, cfg.clip_range)
    drift = per_sample((v - v_teacher).square())
    left = drift.detach() > cfg.drift_bound
    kept = torch.where(left, kept.detach(), kept)
    each = of_group * advantage * kept + cfg.beta_kl * drift
    return (each if weight is None else weight * each).mean(), {
        "weight": of_group.mean(),
        "clipped": (far | left).to(error).mean(),
        "drift": drift.mean().detach(),
    }


def surrogate_roles(cfg: Preferring) -> dict[str, Role]:
    """The surrogate, and the average that follows it."""

    def decay(update: int) -> float:
        return min(cfg.old_decay, cfg.old_decay_rate * update)

    return {
        "surrogate": Trained(start="teacher", lr=cfg.surrogate_lr),
        "old": Follower(of="surrogate", decay=decay),
    }


def leaning(world: World, at: tuple[Tensor, Tensor], cond: Cond) -> Tensor:
    """D_surrogate - D_teacher [B, ...] at (x_t [B, ...], t [B]): where the reward would have samples go."""
    x_t, t = at
    return expand(t, x_t) * (world.nets["teacher"](x_t, t, cond) - world.nets["surrogate"](x_t, t, cond))
