"""A language model that sees, behind a server of the OpenAI protocol: the likeliest first words of its answer."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from stages.core.messages import shown
from stages.io.services import Service, as_png

if TYPE_CHECKING:
    from PIL.Image import Image

PLACE = "{prompt}"
"""Where a question has the prompt."""


def _asks(question: str) -> str:
    if PLACE not in question:
        raise ValueError(f"should hold {PLACE}, where the prompt goes (got {shown(question)})")
    return question


Question = Annotated[str, AfterValidator(_asks)]
ModelName = Annotated[str, Field(min_length=1)]
"""As the server calls it."""
TopLogprobs = Annotated[int, Field(ge=2, le=100)]
"""Likeliest first tokens that are looked at; OpenAI's own servers give 20 at most."""
Tokens = Sequence[tuple[str, float]]
"""First tokens of an answer with their log-probabilities."""


def first_tokens(service: Service, model: str, images: "Sequence[Image]", question: str, top: int) -> Tokens:
    """What `model` may say first of `images` and a question."""
    said = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{as_png(each)}"}} for each in images]
    answer = service.post(
        "/chat/completions",
        {
            "model": model, "messages": [{"role": "user", "content": [*said, {"type": "text", "text": question}]}],
            "max_tokens": 1, "temperature": 0, "seed": 0, "logprobs": True, "top_logprobs": top,
        },
    )  # fmt: skip
    return _read(answer, service.url)


def _read(answer: Any, url: str) -> Tokens:
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


def share(tokens: Tokens, word: str, other: str) -> float:
    """p(word) / (p(word) + p(other)), whatever their letters and spaces; NaN where neither is among `tokens`."""
    mass = {word: 0.0, other: 0.0}
    for token, logprob in tokens:
        said = token.strip(" \n\tĠ▁\"'.").lower()
        if said in mass:
            mass[said] += math.exp(logprob)
    whole = mass[word] + mass[other]
    return mass[word] / whole if whole else math.nan
