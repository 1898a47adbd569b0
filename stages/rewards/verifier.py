"""Does an image show what its prompt asks for? Verifiable rewards of 0 or 1, an attribute each.

`all` is every attribute at once, as GenEval counts; `each` is how many of them, so that it fits any data set.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.messages import choose, join, listed
from stages.core.prompts import Prompt
from stages.core.ranges import Weight
from stages.core.types import Reward
from stages.models.verifier import Verifier, load_verifier

if TYPE_CHECKING:
    from stages.rewards import Given

ALL = "all"
EACH = "each"


@config
class Config:
    """Which attributes count."""

    attributes: dict[str, Weight]
    """Attribute's name, `all` or `each` -> its weight in the sum."""

    def __post_init__(self) -> None:
        if not any(self.attributes.values()):
            raise ValueError("attributes: give one a weight other than 0, as in {all: 1.0}")


def expect(cfg: Config, attributes: Sequence[str], where: str) -> None:
    """ValueError where the verifier judges no such attribute, or nothing at all."""
    if not attributes:
        raise ValueError(f"{join(where, 'kind')}: the verifier judges nothing (verifier=none); name another reward")
    valid = dict.fromkeys([*attributes, ALL, EACH])
    for name in cfg.attributes:
        choose(valid, name, "attribute", join(where, "attributes"))


def build(cfg: Config, given: "Given") -> Reward:
    """The weighted sum of what the verifier of the experiment finds right."""
    return of(load_verifier(given.verifier, given.device), cfg.attributes)


def of(judge: Verifier, weights: Mapping[str, float]) -> Reward:
    """The same of a verifier at hand; it looks at an image once."""
    names = [*judge.attributes, ALL, EACH]
    strange = [name for name in weights if name not in names]
    if strange:
        raise ValueError(f"rewards: no attribute is called {strange[0]!r}; valid: {listed(names)}")

    def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        right = judge.judge(images, prompts)
        columns = torch.cat([right, right.all(dim=1, keepdim=True), right.sum(dim=1, keepdim=True)], dim=1).to(images)
        return torch.stack([weight * columns[:, names.index(name)] for name, weight in weights.items()]).sum(0)

    return reward


def expected(cfg: Config, shares: Mapping[str, float]) -> float:
    """Its mean over samples of which these shares are right, by attribute and for `all`."""
    known = {**shares, EACH: math.fsum(share for name, share in shares.items() if name != ALL)}
    return math.fsum(weight * known[name] for name, weight in cfg.attributes.items())
