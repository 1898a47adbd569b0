"""A vision language model's word: how sure it is that an image shows what the prompt asks for, in [0, 1].

Behind any server of the OpenAI protocol (vLLM, sglang, llama.cpp). It is asked a question of yes or no, and the reward
is p(yes) / (p(yes) + p(no)) of the first token of its answer (the idea of VQAScore, Lin et al. 2024, arXiv:2404.01291);
where it says neither there is no verdict, NaN, and not 0. Its first answer about an image and a prompt stands.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from stages.core.config import config
from stages.core.messages import shown
from stages.core.prompts import Prompt
from stages.core.types import Reward
from stages.io.services import Service, as_png
from stages.io.verdicts import Verdicts

if TYPE_CHECKING:
    from PIL.Image import Image

    from stages.rewards import Given

_PLACE = "{prompt}"


def _asks(question: str) -> str:
    if _PLACE not in question:
        raise ValueError(f"should hold {_PLACE}, where the prompt goes (got {shown(question)})")
    return question


@config
class Config:
    """Who is asked, and what."""

    service: Service
    """Its url ends before /chat/completions, mostly in /v1."""
    model: Annotated[str, Field(min_length=1)]
    """As the server calls it."""
    question: Annotated[str, AfterValidator(_asks)]
    """With {prompt} in it; to be answered by yes or no."""
    top_logprobs: Annotated[int, Field(ge=2, le=100)]
    """Likeliest first tokens among which yes and no are looked for; OpenAI's own gives 20 at most."""


def expect(_cfg: Config, _attributes: Sequence[str], _where: str) -> None:
    """Any prompt can be asked about."""


def build(cfg: Config, _given: "Given") -> Reward:
    """Shares of yes [B]. AwayError where the server does not answer."""
    cfg.service.get("/models")
    decides = {"url": cfg.service.url, "model": cfg.model, "question": cfg.question, "top": cfg.top_logprobs}
    known = Verdicts({"kind": "vlm_judge", **decides})

    def ask(images: "list[Image]", prompts: list[Prompt]) -> list[float]:
        with ThreadPoolExecutor(cfg.service.concurrency) as pool:
            return list(pool.map(lambda image, prompt: _asked(cfg, image, prompt), images, prompts))

    def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return torch.tensor(known.of(images, prompts, ask), dtype=torch.float32, device=images.device)

    return reward


def _asked(cfg: Config, image: "Image", prompt: Prompt) -> float:
    said = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{as_png(image)}"}},
        {"type": "text", "text": cfg.question.replace(_PLACE, prompt.text)},
    ]
    answer = cfg.service.post(
        "/chat/completions",
        {
            "model": cfg.model, "messages": [{"role": "user", "content": said}], "max_tokens": 1, "temperature": 0,
            "seed": 0, "logprobs": True, "top_logprobs": cfg.top_logprobs,
        },
    )  # fmt: skip
    return share_of_yes(_first_token(answer, cfg.service.url))


def _first_token(answer: Any, url: str) -> list[tuple[str, float]]:
    """The likeliest first tokens with their log-probabilities."""
    try:
        return [
            (each["token"], float(each["logprob"]))
            for each in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        ]
    except (KeyError, IndexError, TypeError, ValueError):
        raise ValueError(
            f"{url}: should answer with the log-probabilities of its first token (got {shown(answer)}); the server has "
            "to be one that gives logprobs"
        ) from None


def share_of_yes(tokens: Sequence[tuple[str, float]]) -> float:
    """p(yes) / (p(yes) + p(no)), whatever their letters and spaces; NaN where neither is among `tokens`."""
    mass = {"yes": 0.0, "no": 0.0}
    for token, logprob in tokens:
        word = token.strip(" \n\tĠ▁\"'.").lower()
        if word in mass:
            mass[word] += math.exp(logprob)
    whole = mass["yes"] + mass["no"]
    return mass["yes"] / whole if whole else math.nan
