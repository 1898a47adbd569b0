"""Is the text that a prompt quotes written in the image? 1 where it is, falling to 0 with the letters that differ.

The text is the prompt's fact `text`, else what stands between its first two double quotes; without either there is no
verdict, NaN. What rapidocr reads, from top to bottom, is joined; case and spaces do not count. 1 - d / length, d being
Levenshtein's distance, cut at 0, and 1 where the text stands in what is read, as in Flow-GRPO (Liu et al. 2025,
arXiv:2505.05470), which reads with paddleocr: numbers do not compare.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from math import nan
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.pictures import pictures
from stages.core.prompts import Prompt
from stages.core.types import Reward

if TYPE_CHECKING:
    from PIL.Image import Image

    from stages.rewards import Given


@config
class Config:
    """How pictures are read; rapidocr's wheel holds the models, and its version decides them."""

    reads: Literal["page", "line"]
    """A page: text is found first, wherever it stands. A line: the whole picture is one, as small ones have to be."""


def expect(_cfg: Config, _attributes: Sequence[str], where: str) -> None:
    """ValueError where rapidocr is not installed."""
    if not find_spec("rapidocr"):
        raise ValueError(f"{where}.kind=ocr: reads with rapidocr, which is not installed; pip install 'fewstep[ocr]'")


def build(cfg: Config, _given: "Given") -> Reward:
    """Shares [B]; on one core of the CPU."""
    finds = cfg.reads == "page"
    engine = _engine(finds)

    def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        scores = [_score(engine, finds, image, prompt) for image, prompt in zip(pictures(images), prompts, strict=True)]
        return torch.tensor(scores, dtype=torch.float32, device=images.device)

    return reward


def _engine(finds: bool) -> Any:
    """A fresh one: what a call switches on or off stays so for the next."""
    from rapidocr import RapidOCR

    one_thread = {f"EngineConfig.onnxruntime.{name}_op_num_threads": 1 for name in ("intra", "inter")}
    # A line of a page is padded to 320 pixels for the network; one that is alone need be no wider than it is.
    no_wider = {} if finds else {"Rec.rec_img_shape": [3, 48, 48]}
    return RapidOCR(params={**one_thread, **no_wider, "Global.log_level": "critical"})


def _score(engine: Any, finds: bool, image: "Image", prompt: Prompt) -> float:
    text = wanted(prompt)
    if text is None:
        return nan
    import numpy as np

    read = engine(np.asarray(image.convert("RGB"))[..., ::-1], use_det=finds, use_cls=False, use_rec=True).txts
    return likeness(text, "".join(read or ()))


def wanted(prompt: Prompt) -> str | None:
    """The text that is to be written, None where the prompt asks for none."""
    parts = prompt.text.split('"')
    text = prompt.facts.get("text", parts[1] if len(parts) > 2 else None)
    return text if isinstance(text, str) and text.split() else None


def likeness(text: str, read: str) -> float:
    """1 where `text` stands in what was read, else 1 - distance / length, at least 0."""
    text, read = ("".join(each.lower().split()) for each in (text, read))
    return 1.0 if text in read else max(0.0, 1 - levenshtein(text, read) / len(text))


def levenshtein(a: str, b: str) -> int:
    """The least number of letters to put in, take out or change that makes `a` of `b`."""
    above = list(range(len(b) + 1))
    for i, one in enumerate(a, start=1):
        row = [i]
        for j, other in enumerate(b, start=1):
            row.append(min(row[-1] + 1, above[j] + 1, above[j - 1] + (one != other)))
        above = row
    return above[-1]
