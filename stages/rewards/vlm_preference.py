"""A vision language model's preference between a prompt's samples: the share of the others that each is better than.

Pref-GRPO (Wang et al. 2025, arXiv:2508.20751): a judge that cannot tell scores apart by a hair can still say which of
two images is better. It is shown every two samples of a group, and the reward is the mean over the others of
p(this one) / (p(this one) + p(the other)), of the first token of its answer, in [0, 1]; over a group it averages to
1/2. Where the judge names neither, the two are not compared, and a sample without any comparison has no verdict, NaN.
Such judges favour a place, so both orders can be asked for. Its first answer about two images and a prompt stands.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.prompts import Prompt, runs
from stages.core.types import Reward
from stages.io.chat import Chat

if TYPE_CHECKING:
    from PIL.Image import Image

    from stages.rewards import Given

COMPARES = True


@config
class Config(Chat):
    """Who is asked for 1, the first image, or for 2, the second."""

    both_orders: bool
    """Whether two images are shown a second time, the other first, and the answers averaged: K (K - 1) calls for a
    group of K, in place of half as many."""


def expect(_cfg: Config, _attributes: Sequence[str], _where: str) -> None:
    """Any prompt can be asked about."""


def build(cfg: Config, _given: "Given") -> Reward:
    """Shares of wins [B] among samples of a prompt in a row. AwayError where the server does not answer."""
    first_wins = cfg.shares("vlm_preference", ("1", "2"), _halves)

    def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        two = [pair for run in runs(prompts) for pair in combinations(range(run.start, run.stop), 2)]
        shown = two + ([(right, left) for left, right in two] if cfg.both_orders else [])
        # Side by side they are one picture, which is what verdicts are kept of.
        pairs = [torch.cat([images[left], images[right]], dim=-1) for left, right in shown]
        said = first_wins(torch.stack(pairs), [prompts[left] for left, _ in shown]) if pairs else []
        return shares(shown, torch.tensor(said, dtype=torch.float32), len(images)).to(images.device)

    return reward


def _halves(pair: "Image") -> "list[Image]":
    middle = pair.width // 2
    return [pair.crop((0, 0, middle, pair.height)), pair.crop((middle, 0, pair.width, pair.height))]


def shares(shown: Sequence[tuple[int, int]], said: Tensor, count: int) -> Tensor:
    """[count]: the mean win over all that were said of each; `said` [P] is that of the first of two `shown`."""
    wins, number = torch.zeros(count), torch.zeros(count)
    for (left, right), share_of_left in zip(shown, said, strict=True):
        if share_of_left.isfinite():
            wins[left] += share_of_left
            wins[right] += 1 - share_of_left
            number[left] += 1
            number[right] += 1
    return wins / number
