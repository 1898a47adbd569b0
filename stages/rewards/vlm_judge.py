"""A vision language model's word: how sure it is that an image shows what the prompt asks for, in [0, 1].

Behind any server of the OpenAI protocol (vLLM, sglang, llama.cpp). It is asked a question of yes or no, and the reward
is p(yes) / (p(yes) + p(no)) of the first token of its answer (the idea of VQAScore, Lin et al. 2024, arXiv:2404.01291);
where it says neither there is no verdict, NaN, and not 0. Its first answer about an image and a prompt stands.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.prompts import Prompt
from stages.core.types import Reward
from stages.io.chat import Chat

if TYPE_CHECKING:
    from stages.rewards import Given


@config
class Config(Chat):
    """Who is asked a question of yes or no."""


def expect(_cfg: Config, _attributes: Sequence[str], _where: str) -> None:
    """Any prompt can be asked about."""


def build(cfg: Config, _given: "Given") -> Reward:
    """Shares of yes [B]. AwayError where the server does not answer."""
    sure = cfg.shares("vlm_judge", ("yes", "no"), lambda image: [image])

    def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return torch.tensor(sure(images, prompts), dtype=torch.float32, device=images.device)

    return reward
