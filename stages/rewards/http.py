"""Any scorer that answers over HTTP: whatever it runs on, and whatever packages it needs.

It is sent `{"images": [PNG in base64, ...], "prompts": [{"text", "facts", "negative"}, ...]}` and answers
`{"scores": [number or null, ...]}`, null being no verdict. To none it answers none: so it is asked whether it is there,
before anything is trained. docs/examples/scorer.py is one.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import nan
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from stages.core.config import config
from stages.core.messages import shown
from stages.core.prompts import Prompt
from stages.core.ranges import Size
from stages.core.types import Reward
from stages.io.services import Service, as_png
from stages.io.verdicts import Verdicts

if TYPE_CHECKING:
    from PIL.Image import Image

    from stages.rewards import Given


@config
class Config:
    """Who is asked, and for how much at once."""

    service: Service
    version: Annotated[str, Field(min_length=1)]
    """What scores there. Whoever changes it changes this word: what is kept of the old one is then not asked for."""
    batch_size: Size
    """Images a request."""


def expect(_cfg: Config, _attributes: Sequence[str], _where: str) -> None:
    """What it can score is the scorer's to say."""


def build(cfg: Config, _given: "Given") -> Reward:
    """Scores [B]. AwayError where the scorer does not answer."""
    _scores(cfg, [], [])
    known = Verdicts({"kind": "http", "url": cfg.service.url, "version": cfg.version})

    def ask(images: "list[Image]", prompts: list[Prompt]) -> list[float]:
        starts = range(0, len(images), cfg.batch_size)
        parts = [(images[i : i + cfg.batch_size], prompts[i : i + cfg.batch_size]) for i in starts]
        with ThreadPoolExecutor(cfg.service.concurrency) as pool:
            return [score for scores in pool.map(lambda part: _scores(cfg, *part), parts) for score in scores]

    def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return torch.tensor(known.of(images, prompts, ask), dtype=torch.float32, device=images.device)

    return reward


def _scores(cfg: Config, images: "list[Image]", prompts: list[Prompt]) -> list[float]:
    told = [{"text": each.text, "facts": dict(each.facts), "negative": each.negative} for each in prompts]
    answer: Any = cfg.service.post("", {"images": [as_png(image) for image in images], "prompts": told})
    scores = answer.get("scores") if isinstance(answer, dict) else None
    if not isinstance(scores, list) or len(scores) != len(images) or not all(map(_is_score, scores)):
        raise ValueError(
            f"{cfg.service.url}: should answer scores, a number or null for each of {len(images)} images (got "
            f"{shown(answer)})"
        )
    return [nan if score is None else float(score) for score in scores]


def _is_score(score: object) -> bool:
    return score is None or (isinstance(score, int | float) and not isinstance(score, bool))
