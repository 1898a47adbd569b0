"""A weighted sum of what lies in each channel: on points it is linear, and the best law under a KL term is known.

Of a Gaussian N(m, s^2) the law that a reward <c, x> tilts, p exp(r / beta), is N(m + c s^2 / beta, s^2): so much reward
costs no less than KL = (gain)^2 / (2 s^2 |c|^2). Of pictures it is the brightness of their channels.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor

from stages.core.config import config
from stages.core.prompts import Prompt
from stages.core.ranges import Weight
from stages.core.types import Reward

if TYPE_CHECKING:
    from stages.rewards import Given

DIFFERENTIABLE = True


@config
class Config:
    """Which way is up."""

    direction: Annotated[list[Weight], Field(min_length=1)]
    """c, a number for each channel; of points, for each coordinate."""


def expect(_cfg: Config, _attributes: Sequence[str], _where: str) -> None:
    """Any sample has channels; how many is seen when the first is scored."""


def build(cfg: Config, _given: "Given") -> Reward:
    """<c, x> [B] of images [B, C, ...], a mean over what lies in a channel; the prompts do not matter."""

    def reward(images: Tensor, _prompts: Sequence[Prompt]) -> Tensor:
        if images.shape[1] != len(cfg.direction):
            raise ValueError(
                f"the reward linear: direction has {len(cfg.direction)} numbers, and samples {images.shape[1]} channels"
            )
        return images.flatten(2).mean(dim=2) @ torch.tensor(cfg.direction).to(images)

    return reward
