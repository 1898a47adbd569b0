"""The reward of a steering, as parameters state it: a weighted sum, like an arm's."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from stages import rewards


def _known(section: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    for term in rewards.terms(section, ""):
        if rewards.compares(term):
            raise ValueError(f"{term.name}: compares a prompt's samples, and a search weighs each by itself")
    return section


Rewards = Annotated[dict[str, dict[str, Any]], AfterValidator(_known)]
"""Name -> one of `stages/rewards`, with its knobs."""


def _rising(section: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    rigid = rewards.rigid(rewards.terms(section, ""))
    if rigid:
        raise ValueError(f"{rigid[0].name}: has no gradient by the image, which is followed; take soft_verifier, say")
    return section


Gradients = Annotated[Rewards, AfterValidator(_rising)]
"""The same of rewards that have a gradient by the images."""


def rewards_of(steering: object) -> dict[str, dict[str, Any]]:
    """The section that a steering states; empty where it asks for no reward."""
    return getattr(steering, "reward", {})


Number = Annotated[int, Field(ge=1, le=65536)]
"""Of particles, that are followed for a prompt at a time."""
Several = Annotated[int, Field(ge=2, le=65536)]
"""The same where one has nothing to be weighed against."""
