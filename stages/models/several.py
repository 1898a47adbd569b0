"""Several networks in the place of one: each answers the prompts of one part, and a prompt's own features say which.

Multi-student distillation, Song et al. 2024 (arXiv:2410.23274). Parts are equal blocks of prompts in the order of one
direction: the one along which their features, averaged over tokens, vary most. Where they vary alike in all, as labels
do that are told apart one by one, that is the order in which they stand.

This file is copied into saved models as it is, hence it imports torch and diffusers alone.
"""

import copy
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

ROUNDS = 100
"""Of power iteration, which finds the direction."""


class Several(ModelMixin, ConfigMixin):
    """Called as one of its `members` is, row by row."""

    direction: torch.Tensor  # [D]
    cuts: torch.Tensor  # [count - 1], rising

    @register_to_config
    def __init__(self, kind: str, each: dict[str, Any], count: int, width: int) -> None:
        """`count` networks of diffusers' class `kind` with the configuration `each`; prompts' tokens have `width`."""
        super().__init__()
        self.members = nn.ModuleList(getattr(diffusers, kind).from_config(each) for _ in range(count))
        self.register_buffer("direction", torch.zeros(width))
        self.register_buffer("cuts", torch.zeros(count - 1))

    @classmethod
    def of(cls, body: Any, words: torch.Tensor, count: int) -> "Several":
        """Copies of `body` for equal parts of the prompts whose tokens are `words` [n, L, D].

        ValueError where there are fewer prompts than parts.
        """
        each = {name: value for name, value in body.config.items() if not name.startswith("_")}
        with torch.random.fork_rng(devices=[]):
            made = cls(type(body).__name__, each, count, words.shape[-1])
        made.members = nn.ModuleList(copy.deepcopy(body) for _ in range(count))
        if not words.is_meta:  # a sketch knows no prompts
            made.direction, made.cuts = parted(words.mean(dim=1), count)
        return made.to(next(body.parameters()).device).train(body.training)

    def part(self, words: torch.Tensor) -> torch.Tensor:
        """[B]: which member answers prompts of tokens [B, L, D]."""
        return torch.bucketize((words.mean(dim=1) * self.direction).sum(dim=-1), self.cuts)

    def by_member(
        self, words: torch.Tensor, call: Callable[[nn.Module, torch.Tensor | slice], torch.Tensor]
    ) -> torch.Tensor:
        """Answers [B, ...] of call(member, rows), each row by the member of its prompt."""
        if words.is_meta:  # for who only counts, any member does
            return call(self.members[0], slice(None))
        part = self.part(words)
        rows = [(member, (part == number).nonzero()[:, 0]) for number, member in enumerate(self.members)]
        rows = [(member, asked) for member, asked in rows if len(asked)]
        answers = torch.cat([call(member, asked) for member, asked in rows])
        return answers[torch.cat([asked for _, asked in rows]).argsort()]

    def forward(self, *inputs: torch.Tensor, encoder_hidden_states: torch.Tensor, **more: Any) -> tuple[torch.Tensor]:
        """The answers alone, whatever `return_dict` says."""

        def call(member: nn.Module, rows: torch.Tensor | slice) -> torch.Tensor:
            theirs = {name: value[rows] if torch.is_tensor(value) else value for name, value in more.items()}
            words = encoder_hidden_states[rows]
            return member(*(each[rows] for each in inputs), encoder_hidden_states=words, **theirs)[0]

        return (self.by_member(encoder_hidden_states, call),)


def parted(features: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The direction [D], and the cuts [count - 1] along it between `count` equal blocks of features [n, D].

    ValueError where there are fewer than that.
    """
    if len(features) < count:
        raise ValueError(f"num_students={count}: there are {len(features)} prompts to share; name no more than that")
    wide = features.double()
    centred = wide - wide.mean(dim=0)
    direction = centred.T @ torch.linspace(-1, 1, len(wide), dtype=wide.dtype, device=wide.device)
    for _ in range(ROUNDS):
        direction = nn.functional.normalize(centred.T @ (centred @ direction), dim=0)
    places = (wide @ direction).sort().values
    firsts = [len(wide) * number // count for number in range(1, count)]
    cuts = torch.stack([(places[first - 1] + places[first]) / 2 for first in firsts])
    return direction.to(features), cuts.to(features)
