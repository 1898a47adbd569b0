"""Rewards by name: what scores images for their prompts. A new reward is a new file and one line here.

An arm states a weighted sum of them, each under a name of its own:

    rewards:
      right: {kind: verifier, weight: 1.0, attributes: {all: 1.0}}
      small: {kind: jpeg, weight: -0.1, quality: 90}

A reward is `(images in [0, 1], prompts) -> [B]`; NaN is no verdict, which training refuses rather than take it for 0.
What it reads from outside the experiment, a pretrained network, stands under a key called `source`, so that whoever
keeps results, or watches for changes, knows of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from stages.core.advantage import summed
from stages.core.config import check, config
from stages.core.messages import choose, join, listed, shown, together
from stages.core.prompts import Prompt
from stages.core.ranges import Weight
from stages.core.types import Reward
from stages.io import replicates, sources
from stages.rewards import (
    aesthetic,
    clip_score,
    detection,
    hpsv2,
    hpsv3,
    http,
    image_reward,
    jpeg,
    linear,
    ocr,
    pickscore,
    soft_verifier,
    verifier,
    vlm_judge,
    vlm_preference,
)


@dataclass(frozen=True)
class Given:
    """What a reward may be built from."""

    verifier: Path
    """The verifier's artefact."""
    device: str


class Kind(Protocol):
    """The interface of every module in `stages/rewards`.

    One whose reward has a gradient by the images says so with `DIFFERENTIABLE = True`; one that compares a prompt's
    samples with each other, so that its mean says nothing of a model, with `COMPARES = True`.
    """

    Config: type[Any]

    def expect(self, cfg: Any, attributes: Sequence[str], where: str) -> None:
        """ValueError where a dataset whose verifier judges `attributes` cannot give it."""
        ...

    def build(self, cfg: Any, given: Given) -> Reward:
        """The reward."""
        ...


REWARDS: Mapping[str, Any] = MappingProxyType(
    {
        "verifier": verifier,
        "soft_verifier": soft_verifier,
        "jpeg": jpeg,
        "linear": linear,
        "clip_score": clip_score,
        "pickscore": pickscore,
        "hpsv2": hpsv2,
        "hpsv3": hpsv3,
        "image_reward": image_reward,
        "aesthetic": aesthetic,
        "detection": detection,
        "ocr": ocr,
        "vlm_judge": vlm_judge,
        "vlm_preference": vlm_preference,
        "http": http,
    }
)
MOST_SOURCES = replicates.WATCHED["rl"]
"""Folders of weights that the rewards of one arm may name together."""


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
    stated: Mapping[str, Any]
    """The same, as parameters state it."""
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
    return Term(name, common.weight, kind, check(kind.Config, theirs, at), theirs, at)


def expect(chosen: Sequence[Term], attributes: Sequence[str] | None) -> None:
    """ValueError, a line a fault, where a dataset whose verifier judges `attributes` cannot give one of them.

    Nothing is said of them where they are None. Or where pretrained weights are missing.
    """
    known = [] if attributes is None else chosen
    together(
        *(lambda term=term: term.kind.expect(term.settings, attributes, term.where) for term in known),
        *(lambda term=term: sources.require(term.stated, term.where) for term in chosen),
    )


def weighted(chosen: Sequence[Term], given: Given) -> Reward:
    """The sum of weight x reward, as one reward [B]; see `apart`."""
    judge, weights = apart(chosen, given), [term.weight for term in chosen]
    return lambda images, prompts: summed(judge(images, prompts), weights)


def apart(chosen: Sequence[Term], given: Given) -> Reward:
    """All R of them without their weights, [B, R]. Of a video [B, C, T, H, W], the mean over its frames; frames that
    are compared are those of one time.

    They have a gradient by the images where each has one.
    """
    parts = [term.kind.build(term.settings, given) for term in chosen]

    def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        if len(images) != len(prompts):
            raise ValueError(f"rewards: {len(images)} images and {len(prompts)} prompts; give each image its own")
        if images.dim() != 5:
            return torch.stack([part(images, prompts).to(images) for part in parts], dim=1)
        at_once = torch.stack(
            [_over_frames(part, term, images, prompts) for part, term in zip(parts, chosen, strict=True)]
        )
        return at_once.mean(dim=2).T

    return torch.no_grad()(reward) if rigid(chosen) else reward


def _over_frames(part: Reward, term: Term, videos: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """[B, T]: the reward of each frame of videos [B, C, T, H, W]."""
    if compares(term):
        return torch.stack([part(frame, prompts).to(videos) for frame in videos.unbind(dim=2)], dim=1)
    each = [prompt for prompt in prompts for _ in range(videos.shape[2])]
    return part(videos.transpose(1, 2).flatten(0, 1), each).to(videos).reshape(len(videos), -1)


def compares(term: Term) -> bool:
    """Whether a sample's reward depends on the prompt's other samples."""
    return getattr(term.kind, "COMPARES", False)


def rigid(chosen: Sequence[Term]) -> list[Term]:
    """Those without a gradient by the images."""
    return [term for term in chosen if not getattr(term.kind, "DIFFERENTIABLE", False)]


def is_judged(chosen: Sequence[Term]) -> bool:
    """Whether the sum follows from the verifier's verdicts; any other has to see the samples."""
    return all(term.kind is verifier for term in chosen)


def expected(chosen: Sequence[Term], shares: Mapping[str, float]) -> float:
    """The mean over samples of which these shares are right, by attribute, of a sum that `is_judged`."""
    return math.fsum(term.weight * verifier.expected(term.settings, shares) for term in chosen)
