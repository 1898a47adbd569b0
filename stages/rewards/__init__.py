"""Rewards by name: what scores images for their prompts. A new reward is a new file and one line here.

An arm states a weighted sum of them, each under a name of its own:

    rewards:
      right: {kind: verifier, weight: 1.0, attributes: {all: 1.0}}
      small: {kind: jpeg, weight: -0.1, quality: 90}

A reward is `(images in [0, 1], prompts) -> [B]`; NaN is no verdict, which training refuses rather than take it for 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from stages.core.config import check, config
from stages.core.messages import choose, join, listed, shown, together
from stages.core.prompts import Prompt
from stages.core.ranges import Weight
from stages.core.types import Reward
from stages.rewards import jpeg, verifier


@dataclass(frozen=True)
class Given:
    """What a reward may be built from."""

    verifier: Path
    """The verifier's artefact."""
    device: str


class Kind(Protocol):
    """The interface of every module in `stages/rewards`."""

    Config: type[Any]

    def expect(self, cfg: Any, attributes: Sequence[str], where: str) -> None:
        """ValueError where a dataset whose verifier judges `attributes` cannot give it."""
        ...

    def build(self, cfg: Any, given: Given) -> Reward:
        """The reward."""
        ...


REWARDS: Mapping[str, Any] = MappingProxyType({"verifier": verifier, "jpeg": jpeg})


@config
class Common:
    """What every reward states."""

    kind: str
    weight: Weight
    """In the sum; what is unwanted has a negative one."""


@dataclass(frozen=True)
class Term:
    """A checked reward of an arm."""

    name: str
    weight: float
    kind: Any
    """A row of REWARDS."""
    settings: Any
    """The kind's own Config."""
    where: str


def terms(section: object, where: str) -> list[Term]:
    """The rewards that an arm's section names, the parameter at `where`; ValueError lists every fault."""
    if not isinstance(section, Mapping) or not section:
        raise ValueError(f"{where}: should name at least one reward, as in right: {{kind: verifier, ...}}")
    found = together(*(lambda name=name: _term(section[name], str(name), where) for name in section))
    if not any(term.weight for term in found):
        raise ValueError(f"{where}: every weight is 0; give one another")
    return list(found)


def _term(section: object, name: str, where: str) -> Term:
    at = join(where, name)
    if not isinstance(section, Mapping):
        raise ValueError(f"{at}: should be a mapping with a kind of {listed(sorted(REWARDS))} (got {shown(section)})")
    words = Common.__dataclass_fields__
    mine = {key: value for key, value in section.items() if key in words}
    theirs = {key: value for key, value in section.items() if key not in words}
    common = check(Common, mine, at)
    kind = choose(REWARDS, common.kind, "reward", f"{at}.kind")
    return Term(name, common.weight, kind, check(kind.Config, theirs, at), at)


def expect(chosen: Sequence[Term], attributes: Sequence[str]) -> None:
    """ValueError, a line a fault, where a dataset whose verifier judges `attributes` cannot give one of them."""
    together(*(lambda term=term: term.kind.expect(term.settings, attributes, term.where) for term in chosen))


def weighted(chosen: Sequence[Term], given: Given) -> Reward:
    """The sum of weight x reward, as one reward."""
    parts = [(term.weight, term.kind.build(term.settings, given)) for term in chosen]

    @torch.no_grad()
    def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        if len(images) != len(prompts):
            raise ValueError(f"rewards: {len(images)} images and {len(prompts)} prompts; give each image its own")
        return torch.stack([weight * part(images, prompts).to(images) for weight, part in parts]).sum(0)

    return reward


def is_judged(chosen: Sequence[Term]) -> bool:
    """Whether the sum follows from the verifier's verdicts; any other has to see the samples."""
    return all(term.kind is verifier for term in chosen)


def expected(chosen: Sequence[Term], shares: Mapping[str, float]) -> float:
    """The mean over samples of which these shares are right, by attribute, of a sum that `is_judged`."""
    return math.fsum(term.weight * verifier.expected(term.settings, shares) for term in chosen)
