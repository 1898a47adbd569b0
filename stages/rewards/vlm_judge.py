"""A vision language model's word: how sure it is that an image shows what the prompt asks for, in [0, 1].

Behind any server of the OpenAI protocol (vLLM, sglang, llama.cpp). It is asked a question of yes or no, and the reward
is p(yes) / (p(yes) + p(no)) of the first token of its answer (the idea of VQAScore, Lin et al. 2024, arXiv:2404.01291);
where it says neither there is no verdict, NaN, and not 0. Its first answer about an image and a prompt stands.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.prompts import Prompt
from stages.core.types import Reward
from stages.io.chat import PLACE, ModelName, Question, TopLogprobs, first_tokens, share
from stages.io.services import Service
from stages.io.verdicts import Verdicts

if TYPE_CHECKING:
    from PIL.Image import Image

    from stages.rewards import Given


@config
class Config:
    """Who is asked, and what."""

    service: Service
    """Its url ends before /chat/completions, mostly in /v1."""
    model: ModelName
    question: Question
    """With {prompt} in it; to be answered by yes or no."""
    top_logprobs: TopLogprobs
    """Among which yes and no are looked for."""


def expect(_cfg: Config, _attributes: Sequence[str], _where: str) -> None:
    """Any prompt can be asked about."""


def build(cfg: Config, _given: "Given") -> Reward:
    """Shares of yes [B]. AwayError where the server does not answer."""
    cfg.service.get("/models")
    decides = {"url": cfg.service.url, "model": cfg.model, "question": cfg.question, "top": cfg.top_logprobs}
    known = Verdicts({"kind": "vlm_judge", **decides})

    def one(image: "Image", prompt: Prompt) -> float:
        question = cfg.question.replace(PLACE, prompt.text)
        return share(first_tokens(cfg.service, cfg.model, [image], question, cfg.top_logprobs), "yes", "no")

    def ask(images: "list[Image]", prompts: list[Prompt]) -> list[float]:
        with ThreadPoolExecutor(cfg.service.concurrency) as pool:
            return list(pool.map(one, images, prompts))

    def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return torch.tensor(known.of(images, prompts, ask), dtype=torch.float32, device=images.device)

    return reward
