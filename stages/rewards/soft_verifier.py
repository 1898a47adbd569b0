"""How likely does the verifier find what a prompt asks for? Log-probabilities, which have a gradient by the image.

What `verifier` judges hard is relaxed: a class has its log-probability under the classifier, or under the densities; a
quantity that is measured against edges is one that falls between them once logistic noise is added, whose scale is
`softness` times the distance of the outermost edges. Attributes are taken for independent, so that `all` and `each` are
both the sum of all log-probabilities. It is no larger than 0, and nearly 0 for what is surely right.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.messages import join
from stages.core.prompts import Prompt
from stages.core.ranges import Positive, Weight
from stages.core.types import Reward
from stages.models.scenes import JUDGED
from stages.models.verifier import Likelihood, load_verifier
from stages.rewards import verifier

if TYPE_CHECKING:
    from stages.rewards import Given

DIFFERENTIABLE = True


@config
class Config:
    """Which attributes count, and how hard their edges are."""

    attributes: dict[str, Weight]
    """Attribute's name, `all` or `each` -> its weight in the sum."""
    softness: Positive
    """Scale of the noise that softens measured edges, as a share of the distance of the outermost; small is hard."""

    def __post_init__(self) -> None:
        if not any(self.attributes.values()):
            raise ValueError("attributes: give one a weight other than 0, as in {each: 1.0}")


def expect(cfg: Config, attributes: Sequence[str], where: str) -> None:
    """ValueError where the verifier judges no such attribute, or says nothing but yes and no."""
    verifier.expect(verifier.Config(attributes=cfg.attributes), attributes, where)
    if tuple(attributes) == JUDGED:
        raise ValueError(
            f"{join(where, 'kind')}=soft_verifier: the verifier of scenes has no likelihoods; take verifier"
        )


def build(cfg: Config, given: "Given") -> Reward:
    """The weighted sum of log-probabilities [B]."""
    judge = load_verifier(given.verifier, given.device)
    if not isinstance(judge, Likelihood):
        raise ValueError(f"soft_verifier: {type(judge).__name__} has no likelihoods; take the reward verifier")

    def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        logs = judge.log_likelihood(images, prompts, cfg.softness)
        columns = dict(zip(judge.attributes, logs.unbind(dim=1), strict=True))
        whole = logs.sum(dim=1)
        return torch.stack([weight * columns.get(name, whole) for name, weight in cfg.attributes.items()]).sum(0)

    return reward
