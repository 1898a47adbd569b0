"""A language model that sees, behind a server of the OpenAI protocol: which of two words it begins its answer with."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from stages.core.config import config
from stages.core.messages import shown
from stages.core.prompts import Prompt
from stages.io.services import Service, as_png
from stages.io.verdicts import Verdicts

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

PLACE = "{prompt}"
"""Where a question has the prompt."""


def _asks(question: str) -> str:
    if PLACE not in question:
        raise ValueError(f"should hold {PLACE}, where the prompt goes (got {shown(question)})")
    return question


Tokens = Sequence[tuple[str, float]]
"""First tokens of an answer with their log-probabilities."""
Words = tuple[str, str]
"""The one that counts, and the other."""


@config
class Chat:
    """Who is asked, and what."""

    service: Service
    """Its url ends before /chat/completions, mostly in /v1."""
    model: Annotated[str, Field(min_length=1)]
    """As the server calls it."""
    question: Annotated[str, AfterValidator(_asks)]
    """With {prompt} in it; to be answered by one of two words."""
    top_logprobs: Annotated[int, Field(ge=2, le=100)]
    """Likeliest first tokens among which the words are looked for; OpenAI's own servers give 20 at most."""

    def shares(
        self, kind: str, words: Words, parts: "Callable[[Image], Sequence[Image]]"
    ) -> "Callable[[Tensor, Sequence[Prompt]], list[float]]":
        """What tells of pictures [B, C, H, W] and B prompts how much likelier than the other the first word is.

        The model sees the `parts` of a picture. Its first answer about a picture and a prompt stands, among those of
        rewards of this `kind`. AwayError where the server does not answer.
        """
        self.service.get("/models")
        decides = {"url": self.service.url, "model": self.model, "question": self.question, "top": self.top_logprobs}
        known = Verdicts({"kind": kind, **decides})

        def ask(images: "list[Image]", prompts: list[Prompt]) -> list[float]:
            with ThreadPoolExecutor(self.service.concurrency) as pool:
                answers = pool.map(lambda image, prompt: self._first_tokens(parts(image), prompt), images, prompts)
                return [share(tokens, *words) for tokens in answers]

        return lambda images, prompts: known.of(images, prompts, ask)

    def _first_tokens(self, images: "Sequence[Image]", prompt: Prompt) -> Tokens:
        said = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{as_png(each)}"}} for each in images]
        said.append({"type": "text", "text": self.question.replace(PLACE, prompt.text)})
        answer = self.service.post(
            "/chat/completions",
            {
                "model": self.model, "messages": [{"role": "user", "content": said}], "max_tokens": 1, "temperature": 0,
                "seed": 0, "logprobs": True, "top_logprobs": self.top_logprobs,
            },
        )  # fmt: skip
        return _read(answer, self.service.url)


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
