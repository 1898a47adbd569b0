"""Metrics that parameters may ask for beside those that every model has, each under a name of its own:

    evaluate:
      metrics:
        kernel: {kind: kernel, degree: 3}

A new one is a new file and one line here. A pretrained network stands under a key called `source`, as with rewards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol

from torch import Tensor

from stages.core.config import check
from stages.core.messages import choose, join, listed, shown
from stages.core.prompts import Prompt
from stages.core.types import Velocity
from stages.metrics import clip_score, cmmd, diversity, fd, kernel, likelihood, manifold, sharpness, spread
from stages.models.space import Points
from stages.models.verifier import Verifier


@dataclass(frozen=True)
class Flow:
    """A model itself, for metrics that look at no samples of it."""

    velocity: Velocity
    space: Points
    kind: str
    """Of the space: pixels, points or latents."""
    cond: Tensor
    """[M, 1], the prompts of the test images."""


@dataclass(frozen=True)
class Sampled:
    """What a metric may look at."""

    images: Tensor
    """[N, ...], in [0, 1] where they are pictures."""
    prompts: Sequence[Prompt]
    """What each was asked to show."""
    real: Tensor
    """[M, ...], the test images; none of them where the metric does not need them."""
    verifier: Verifier
    flow: Flow | None = None
    """Where the metric needs it; there are no samples then."""


Need = Literal["real", "verifier", "repeats", "flow"]
"""Test images; a verifier that sees; several samples of a prompt; the model's flow in the place of samples."""


class Kind(Protocol):
    """The interface of every module in METRICS."""

    NEEDS: tuple[Need, ...]
    """Without real images, verifier or model it is left out; without repeats, which parameters state, it is refused."""
    Config: type[Any]

    def measure(self, cfg: Any, shown: Sampled) -> float | None:
        """One number; None where these samples tell nothing."""
        ...


METRICS: Mapping[str, Any] = MappingProxyType(
    {
        "kernel": kernel,
        "likelihood": likelihood,
        "cmmd": cmmd,
        "fd": fd,
        "manifold": manifold,
        "clip_score": clip_score,
        "diversity": diversity,
        "sharpness": sharpness,
        "spread": spread,
    }
)


def chosen(section: object, where: str) -> tuple[Kind, Any]:
    """The metric that `section` states, and its settings; ValueError where it states none that there is."""
    if not isinstance(section, Mapping):
        raise ValueError(
            f"{where}: should be a mapping with a kind of {listed(sorted(METRICS))} (got {shown(section)})"
        )
    name = section.get("kind")
    kind = choose(METRICS, name if isinstance(name, str) else shown(name), "metric", join(where, "kind"))
    return kind, check(kind.Config, {key: value for key, value in section.items() if key != "kind"}, where)
