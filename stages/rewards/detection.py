"""Does an image show the objects, their number, colours and places that a prompt's facts list? By an object detector.

Prompts and rules are GenEval's (Ghosh et al. 2023, arXiv:2310.11513), the detector is not: numbers do not compare with
GenEval's, hence the name. Facts: `include`, a list of {"class", "count", "color"?, "position"?: [relation, which of the
earlier]}, and `exclude`. Colours are told by a CLIP on what is in an object's box, background and all. Prompts whose
facts list nothing get no verdict, NaN.
"""

from collections.abc import Callable, Mapping, Sequence
from math import hypot, nan
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.messages import listed, shown
from stages.core.pictures import pictures
from stages.core.prompts import Prompt
from stages.core.ranges import Unit
from stages.core.types import Reward
from stages.io.sources import Source, pretrained
from stages.models.clip import load_clip
from stages.models.detector import Found, load_detector

if TYPE_CHECKING:
    from PIL.Image import Image

    from stages.rewards import Given

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEMPLATES = ("a photo of a {} {}", "a photo of a {}-colored {}", "a photo of a {} object")
COUNTING = "counting"
NEAR = 0.1
"""Of both objects' sizes: so much of the way between two centres says nothing of their places."""
_BATCH = 16


@config
class Colors:
    """What tells colours."""

    source: Source
    """A folder of transformers' CLIPModel."""


@config
class Config:
    """By what, how sure, and how strict."""

    source: Source
    """A folder of one of transformers' object detectors, whose labels are the prompts' classes."""
    threshold: Unit
    """An object counts from this score on; GenEval takes 0.3."""
    counting_threshold: Unit
    """The same for prompts whose task is counting; GenEval takes 0.9."""
    score: Literal["strict", "share"]
    """1 where all is as asked, else 0; or the share of what is asked that is."""
    colors: Colors


def expect(_cfg: Config, _attributes: Sequence[str], _where: str) -> None:
    """What prompts ask for is in their facts, which are not known yet."""


def build(cfg: Config, given: "Given") -> Reward:
    """Verdicts [B]."""
    detector = load_detector(pretrained(cfg.source), given.device)
    color_of = _by_clip(cfg.colors.source, given.device)
    sure = min(cfg.threshold, cfg.counting_threshold)

    def verdict(image: "Image", found: Sequence[Found], prompt: Prompt) -> float:
        if not prompt.facts.get("include") and not prompt.facts.get("exclude"):
            return nan
        _known(detector.labels, prompt)
        least = cfg.counting_threshold if prompt.facts.get("task") == COUNTING else cfg.threshold
        met = asked([each for each in found if each.score >= least], prompt.facts, lambda one: color_of(image, one))
        return float(all(met)) if cfg.score == "strict" else sum(met) / len(met)

    def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        drawn = pictures(images)
        starts = range(0, len(drawn), _BATCH)
        found = [each for first in starts for each in detector.find(drawn[first : first + _BATCH], sure)]
        verdicts = [verdict(*each) for each in zip(drawn, found, prompts, strict=True)]
        return torch.tensor(verdicts, dtype=torch.float32, device=images.device)

    return reward


def asked(found: Sequence[Found], facts: Mapping[str, Any], color_of: Callable[[Found], str]) -> list[bool]:
    """Whether each thing that facts ask for is there: of every entry of include its number, color and position.

    And of every entry of exclude that there are fewer. `found` is surest first; color and position are those of the
    surest, and fail with the number.
    """
    met, groups = list[bool](), list[list[Found]]()
    for entry in facts.get("include", []):
        mine = [each for each in found if each.label == entry["class"]][: entry.get("count", 1)]
        enough = len(mine) == entry.get("count", 1)
        met.append(enough)
        if "color" in entry:
            met.append(enough and all(color_of(each) == entry["color"] for each in mine))
        if "position" in entry:
            relation, target = entry["position"]
            others = groups[target]
            met.append(enough and bool(others) and all(relation in places(a, b) for a in mine for b in others))
        groups.append(mine if enough else [])
    for entry in facts.get("exclude", []):
        met.append(sum(each.label == entry["class"] for each in found) < entry.get("count", 1))
    return met


def places(one: Found, other: Found) -> set[str]:
    """Where `one` is seen from `other`: left of, right of, above, below; nothing where they are too near."""
    gaps, centres = [], []
    for low, high in ((0, 2), (1, 3)):
        offset = (one.box[low] + one.box[high] - other.box[low] - other.box[high]) / 2
        reach = NEAR * (one.box[high] - one.box[low] + other.box[high] - other.box[low])
        centres.append(offset)
        gaps.append(max(abs(offset) - reach, 0.0) * (1 if offset > 0 else -1))
    if max(map(abs, gaps)) < 1e-3:
        return set()
    dx, dy = (gap / hypot(*centres) for gap in gaps)
    told = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {relation for relation, holds in told.items() if holds}


def _by_clip(source: str, device: str) -> Callable[["Image", Found], str]:
    clip, known = load_clip(pretrained(source), device), dict[str, Tensor]()

    def embedded(label: str) -> Tensor:
        if label not in known:
            texts = [template.format(color, label) for color in COLORS for template in TEMPLATES]
            known[label] = clip.texts(texts).reshape(len(COLORS), len(TEMPLATES), -1).mean(dim=1)
        return known[label]

    def color_of(image: "Image", one: Found) -> str:
        left, top, right, bottom = (round(edge) for edge in one.box)
        crop = image.crop((max(0, left), max(0, top), max(left + 1, right), max(top + 1, bottom)))
        return COLORS[int((clip.seen([crop]) @ embedded(one.label).T).argmax())]

    return color_of


def _known(labels: Sequence[str], prompt: Prompt) -> None:
    entries = [*prompt.facts.get("include", []), *prompt.facts.get("exclude", [])]
    strange = [entry["class"] for entry in entries if entry["class"] not in labels]
    if strange:
        raise ValueError(
            f"detection: the prompt {shown(prompt.text)} asks for {shown(strange[0])}, unknown to the detector; "
            f"it knows {listed(labels)}"
        )
