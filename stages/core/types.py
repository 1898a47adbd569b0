"""The words that packages use between them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Generator, Tensor, nn

from stages.core.prompts import Prompt
from stages.core.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from PIL.Image import Image

Cond = Tensor
"""Prompts inside, int64 [B, 1]: rows of a model's text table, of which row 0 is the empty prompt. They may be indexed,
repeated and compared; only a network looks up what they stand for."""

Batch = Mapping[str, Tensor]
"""What one training iteration sees. `cond` is always there; see `stages/training/method.py`."""

Sink = Callable[[int, Mapping[str, float]], None]
"""Where a computation reports: (step, metrics). The caller decides what becomes of it."""

Show = Callable[[int, str, "Image"], None]
"""Where it shows pictures: (step, name, picture)."""


def unseen(_step: int, _name: str, _picture: "Image") -> None:
    """Nobody looks."""


Reward = Callable[[Tensor, Sequence[Prompt]], Tensor]
"""(images [B, C, H, W] in [0, 1], or videos [B, C, T, H, W], or points; B prompts) -> reward [B]. NaN: no verdict.

All values that it is given are finite. One that keeps R rewards apart answers [B, R]. One that compares samples takes
those of a prompt that follow each other for a group, so whoever hands it parts of a batch keeps them together.
"""

Features = Mapping[str, Tensor]
"""What is known of prompts, a row each: `hidden` [n, L, D], `pooled` [n, D], `mask` [n, L], as networks ask for it."""

Encode = Callable[[Sequence[int]], Mapping[int, Features]]
"""Rows of the text table -> the features of each, [1, ...]; those of further rows may be among them."""

Guiding = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""(x [B, ...], t [B], a velocity with the prompts, one without, scale) -> the guided velocity."""

Scored = Callable[[Tensor, Cond], Tensor]
"""A reward as losses call it: (samples [B, ...] of the model's space, cond [B, 1]) -> reward [B]."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a stage's `work` is given beside its configuration, its job and its unit: this one computation's things."""

    out: Path
    """Where the unit's files go."""
    resume: Path
    """Where an interrupted training left its state, and leaves it."""
    sink: Sink
    show: Show = unseen
    ranks: Ranks = ALONE
    """This process's place among those that share the unit."""
    reward: Reward | None = None
    """What scores samples, where that is appointed; None leaves it to the stage."""
    encode: Encode | None = None
    """What encodes prompts of which there is no table, where that is appointed; None leaves it to this process."""


@runtime_checkable
class Velocity(Protocol):
    """dx/dt at (x [B, C, H, W] or [B, C, T, H, W], t [B]) under the prompts cond [B, 1].

    Some students take more, which they were trained for: `until` [B], a second time t or below, asks for the average
    along their trajectory from t down to there, and `z`, like x, tells them more: standard normal it makes an answer
    one of many, and a teacher for restoration is told a coarse picture by it.
    """

    def __call__(self, x: Tensor, t: Tensor, cond: Cond, /, **more: Tensor) -> Tensor:  # noqa: D102 - the class says it
        ...


@runtime_checkable
class Network(Velocity, Protocol):
    """A velocity that shows what it sees inside."""

    feature_dim: int

    def features(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """[B, T, feature_dim], tokens half-way through the network."""
        ...


class Space(Protocol):
    """Where a model's samples live."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: (C, H, W), or (C, T, H, W)."""
        ...

    def noise(self, n: int, rng: Generator) -> Tensor:
        """Standard normal [n, *shape] on the generator's device, float32 or wider whatever networks compute in."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Samples [B, *shape] of images [B, C, H, W] in [0, 1]."""
        ...

    def decode(self, samples: Tensor) -> Tensor:
        """Images, in [0, 1] where they are pictures."""
        ...


@dataclass(frozen=True)
class World:
    """What a loss may call: the networks by role ("teacher" is frozen and always there) and the reward, if any.

    In a training these are `stages.training.networks.RoleNetwork`s, which count calls and answer in float32 or wider.
    """

    nets: Mapping[str, nn.Module]
    space: Space
    reward: Scored | None = None
    parts: Scored | None = None
    """The rewards that `reward` is the sum of, by `weights`, each as it is: [B, R]."""
    weights: tuple[float, ...] = (1.0,)
    rows: Mapping[str, int] = field(default_factory=dict)
    """Of the text table, by the texts of the prompts that the method names."""
    progress: float = 0.0
    """Share of the budget that is spent, in [0, 1)."""
    iteration: int = 0
    """Iterations that were before this one."""
    agreed: Callable[[int], int] = lambda count: count
    """Of a drawn number that decides how often networks are called: that of all slices, where they must agree."""
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    """What a method that says so kept of the batch before, for `prepare`; nothing in the first iteration."""
