"""LAION's aesthetic predictor: how much people would like an image whatever it shows, on a scale of 1 to 10.

Source: Schuhmann 2022, improved-aesthetic-predictor, sac+logos+ava1-l14-linearMSE: linear layers, one behind the other,
on the embedding of CLIP ViT-L/14 of length 1 (without that, scores shift). The published head is a pickle: save its
state as safetensors once. Prompts do not matter.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.prompts import Prompt
from stages.core.types import Reward
from stages.io.sources import Source, pretrained
from stages.models.clip import load_clip
from stages.models.folder import weights

if TYPE_CHECKING:
    from stages.rewards import Given


FILE = "sac+logos+ava1-l14-linearMSE.safetensors"


@config
class Head:
    """The layers on top."""

    source: Source
    """A safetensors file with `layers.<n>.weight` and `layers.<n>.bias`, or a folder with one of the published name."""


@config
class Config:
    """Whose eye, and whose taste."""

    source: Source
    """A folder of transformers' CLIPModel."""
    head: Head


def expect(_cfg: Config, _attributes: Sequence[str], _where: str) -> None:
    """Any picture has a score."""


def build(cfg: Config, given: "Given") -> Reward:
    """Scores [B]."""
    clip = load_clip(pretrained(cfg.source), given.device)
    layers = [(weight.to(given.device), bias.to(given.device)) for weight, bias in _layers(cfg.head.source)]

    @torch.no_grad()
    def reward(images: Tensor, _prompts: Sequence[Prompt]) -> Tensor:
        found = clip.images(images)
        for weight, bias in layers:
            found = torch.nn.functional.linear(found, weight, bias)
        return found[:, 0]

    return reward


def _layers(source: str) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases in order; ValueError where the file holds none that fit each other and end in one number."""
    content = weights(pretrained(source), FILE)
    numbers = sorted(int(match[1]) for name in content if (match := re.fullmatch(r"layers\.(\d+)\.weight", name)))
    found = [content[f"layers.{number}.weight"].float() for number in numbers]
    fits = all(low.shape[0] == high.shape[1] for low, high in pairwise(found))
    if not found or not fits or found[-1].shape[0] != 1:
        raise ValueError(f"{source}: holds no layers.<n>.weight that fit each other and end in one number")
    return [(weight, content[f"layers.{number}.bias"].float()) for number, weight in zip(numbers, found, strict=True)]
