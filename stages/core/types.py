"""The words that packages use between them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from stages.core.ranks import ALONE, Ranks

Tokens = Tensor
"""Prompts after a model's tokeniser, int64 [B, L]. Outside the model a prompt is a string."""

Batch = Mapping[str, Tensor]
"""What one training iteration sees. `cond` and `null` are always there; see `stages/training/method.py`."""

Sink = Callable[[int, Mapping[str, float]], None]
"""Where a computation reports: (step, metrics). The caller decides what becomes of it."""

Reward = Callable[[Tensor, Tensor], Tensor]
"""(images [B, C, H, W], targets int64 [B, A]) -> reward [B]; A attributes are asked for. NaN means no verdict."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a stage's `work` is given beside its configuration, its job and its unit: this one computation's things."""

    out: Path
    """Where the unit's files go."""
    resume: Path
    """Where an interrupted training left its state, and leaves it."""
    sink: Sink
    ranks: Ranks = ALONE
    """This process's place among those that share the unit."""
    reward: Reward | None = None
    """What scores samples, where that is appointed; None leaves it to the stage."""


@runtime_checkable
class Velocity(Protocol):
    """dx/dt at (x [B, C, H, W], t [B]) under the prompts cond [B, L]."""

    def __call__(self, x: Tensor, t: Tensor, cond: Tokens, /) -> Tensor:  # noqa: D102 - the class says it
        ...


@runtime_checkable
class Network(Velocity, Protocol):
    """A velocity that knows its prompts, and shows what it sees inside."""

    feature_dim: int
    sample_shape: tuple[int, int, int]

    def tokens(self, prompts: Sequence[str]) -> Tokens:
        """[B, L]; ValueError names a word outside the vocabulary."""
        ...

    def null(self, n: int) -> Tokens:
        """[n, L], the empty prompt."""
        ...

    def features(self, x: Tensor, t: Tensor, cond: Tokens) -> Tensor:
        """[B, T, feature_dim], tokens half-way through the network."""
        ...


@dataclass(frozen=True)
class World:
    """What a loss may call: the networks by role ("teacher" is frozen and always there) and the reward, if any.

    In a training these are `stages.training.networks.RoleNetwork`s, which count calls and answer in float32 or wider.
    """

    nets: Mapping[str, nn.Module]
    reward: Reward | None = None
