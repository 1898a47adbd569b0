"""Who computes rewards: the process that trains, unless whoever runs the unit appoints another."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # orchestration imports this, and has no use for torch
    from stages.core.types import Reward

_CURRENT: "ContextVar[Reward | None]" = ContextVar("judging", default=None)


def appointed() -> "Reward | None":
    """The reward that was appointed with `judged_by`; None where training computes its own."""
    return _CURRENT.get()


@contextmanager
def judged_by(reward: "Reward | None") -> Iterator[None]:
    """Inside, `appointed()` is `reward`: no stage needs to know where it is computed."""
    token = _CURRENT.set(reward)
    try:
        yield
    finally:
        _CURRENT.reset(token)
