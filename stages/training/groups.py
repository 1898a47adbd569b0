"""What policies share that learn from noised final samples: groups rolled out along the plain ODE, judged, and noised.

The denoising loss of such a sample stands in for its likelihood, so that no density of the roll-out's steps is needed.
Whether samples of a group share their time and noise is the method's to say: shared ones cancel in differences.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor

from stages.core.advantage import Scale, group_advantage, grouped, numbered, summed, win_rate
from stages.core.guidance import guided
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import even
from stages.core.types import Batch, World
from stages.samplers.rollout import rolled_out
from stages.training.checks import finite

Levels = Literal["any", "steps"]
"""Where samples are noised: at any level in [t_min, t_max], or at those of the roll-out's own steps that lie there."""


Summed = Literal["rewards", "wins", "advantages"]
"""What an arm's rewards are added up as, by their weights: themselves, the shares of its group that a sample is better
than by each, or the advantages that each alone would give."""


class RollOut(Protocol):
    """What a configuration says of its roll-outs."""

    @property
    def method(self) -> str:
        """For messages."""
        ...

    @property
    def rollout_steps(self) -> int:
        """Equal Euler steps."""
        ...


class Judging(Protocol):
    """What a configuration says of rewards, and of what it makes of them."""

    @property
    def advantage_scale(self) -> Scale:
        """What centred rewards are divided by."""
        ...

    @property
    def summed(self) -> Summed:
        """What the arm's rewards are added up as."""
        ...


class Noising(Protocol):
    """What a configuration says of the levels at which it looks at samples."""

    @property
    def rollout_steps(self) -> int:
        """Equal Euler steps."""
        ...

    @property
    def levels(self) -> Levels:
        """Any, or those of the steps."""
        ...

    @property
    def t_min(self) -> float:
        """The smallest."""
        ...

    @property
    def t_max(self) -> float:
        """The largest."""
        ...


class Judged(RollOut, Judging, Protocol):
    """Both."""


ADVICE = "look at the samples and at the reward; lower student_lr or raise what holds the model to its start"


def scored(world: World, x0: Tensor, cond: Tensor, method: str) -> Tensor:
    """The reward [B] of samples x0 [B, ...]; ValueError where it has no verdict."""
    assert world.reward is not None, "a policy is trained on a reward"
    return finite(world.reward(x0, cond), f"{method}: reward", ADVICE)


def scored_apart(world: World, x0: Tensor, cond: Tensor, method: str) -> Tensor:
    """Each of the arm's rewards by itself, [B, R], before its weight; ValueError where one has no verdict."""
    assert world.parts is not None, "a policy is trained on a reward"
    return finite(world.parts(x0, cond), f"{method}: reward", ADVICE)


def judged(world: World, x0: Tensor, batch: Batch, cfg: Judging, method: str) -> tuple[Tensor, Tensor]:
    """The reward [B] of samples x0 [B, ...], and their advantage [B] over their group.

    Wins, and advantages that are summed, are each reward's own, of one scale whatever the range of that reward.
    """
    cond, group, scale = batch["cond"], batch["group"], cfg.advantage_scale
    if cfg.summed == "rewards":
        reward = scored(world, x0, cond, method)
        return reward, group_advantage(grouped(reward, group), scale).flatten()
    parts = scored_apart(world, x0, cond, method)
    reward, own = summed(parts, world.weights), [grouped(column, group) for column in parts.unbind(dim=1)]
    if cfg.summed == "wins":
        wins = summed(torch.stack([win_rate(each).flatten() for each in own], dim=1), world.weights)
        return reward, group_advantage(grouped(wins, group), scale).flatten()
    each = [group_advantage(column, scale).flatten() for column in own]
    return reward, summed(torch.stack(each, dim=1), world.weights)


@torch.no_grad()
def sampled(
    world: World, cond: Tensor, rng: Generator, cfg: RollOut, role: str = "student", guidance: float = 1.0
) -> Tensor:
    """Samples [B, ...] of `role` under `guidance`, by Euler steps from noise."""
    noise, velocity = world.space.noise(len(cond), rng), guided(world.nets[role], guidance)
    return rolled_out(velocity, noise, even(cfg.rollout_steps).times, cond)[:, -1]


@torch.no_grad()
def rolled(
    world: World, batch: Batch, rng: Generator, cfg: Judged, role: str = "student", guidance: float = 1.0
) -> Batch:
    """Adds x0 [B, ...], samples of `role`, with their reward and advantage [B]."""
    x0 = sampled(world, batch["cond"], rng, cfg, role, guidance)
    reward, advantage = judged(world, x0, batch, cfg, cfg.method)
    return {**batch, "x0": x0, "reward": reward, "advantage": advantage}


def ordered(reward: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each group the row of its best and of its worst sample, int64 [G], and whether one is better, bool [G]."""
    scores = grouped(reward, group)
    first = scores.shape[1] * torch.arange(len(scores), device=scores.device)
    (best, wins), (worst, loses) = scores.max(dim=1), scores.min(dim=1)
    return first + wins, first + loses, best > worst


def check_levels(cfg: Noising) -> None:
    """ValueError where there is no level to noise samples to."""
    if cfg.levels == "any" and cfg.t_min >= cfg.t_max:
        raise ValueError(f"t_min={cfg.t_min} must be less than t_max={cfg.t_max}")
    if cfg.levels == "steps" and not _nodes(cfg):
        raise ValueError(
            f"none of {cfg.rollout_steps} equal steps begins in [t_min, t_max] = [{cfg.t_min}, {cfg.t_max}]; widen it"
        )


def _nodes(cfg: Noising) -> list[float]:
    return [t for t in even(cfg.rollout_steps).times[:-1] if cfg.t_min <= t <= cfg.t_max]


def levels(count: int, rng: Generator, like: Tensor, cfg: Noising) -> Tensor:
    """`count` levels t, of the type and on the device of `like`."""
    if cfg.levels == "any":
        return uniform(count, rng, like, cfg.t_min, cfg.t_max)
    nodes = torch.tensor(_nodes(cfg), dtype=like.dtype, device=like.device)
    return nodes[torch.randint(len(nodes), (count,), generator=rng, device=like.device)]


def apart(batch: Batch, rng: Generator, cfg: Noising) -> tuple[Tensor, Tensor]:
    """t [B] and eps [B, ...] of samples batch["x0"], each its own."""
    times, noises = fork(rng, "times", "noises")
    x0 = batch["x0"]
    return levels(len(x0), times, x0, cfg), normal_like(x0, noises)


def together(batch: Batch, rng: Generator, cfg: Noising) -> tuple[Tensor, Tensor]:
    """The same, each shared by a whole group."""
    times, noises = fork(rng, "times", "noises")
    x0, of = batch["x0"], numbered(batch["group"])
    return levels(int(of[-1]) + 1, times, x0, cfg)[of], shared_noise(x0, of, noises)


def shared_noise(like: Tensor, of: Tensor, rng: Generator) -> Tensor:
    """Noise [B, ...] as of samples `like`, the same for all of a group; `of` [B] are groups 0, 0, .., 1, 1, .."""
    shape = (int(of[-1]) + 1, *like.shape[1:])
    return torch.randn(shape, generator=rng, dtype=like.dtype, device=like.device)[of]


def held(updates: int, decay: Callable[[int], float]) -> Callable[[int], float]:
    """A follower's decay that keeps it as it is within iterations of `updates` updates each, and moves it at their end.

    `decay` is given the number of iterations so far, 1 at the end of the first.
    """
    return lambda update: 1.0 if update % updates else decay(update // updates)


def group_weight(excess: Tensor, advantage: Tensor, beta: float) -> Tensor:
    """W [G, 1] from l - l_ref and A, both [G, K]: small once the group's order is already learnt."""
    return torch.sigmoid(beta * (advantage * excess).mean(dim=1, keepdim=True))


def clipped_error(error: Tensor, old_error: Tensor, advantage: Tensor, clip_range: float) -> tuple[Tensor, Tensor]:
    """`error` [B] with no gradient where it moved far enough, and where that is."""
    ratio = (old_error - error.detach()).exp()
    far = torch.where(advantage > 0, ratio > 1 + clip_range, ratio < 1 - clip_range)
    return torch.where(far, error.detach(), error), far
