"""Slices of an iteration that are prepared beside each other: while one waits for its reward, another computes.

They take turns, so that never two compute at once: each draws from its own stream, and finds what it would find alone.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor

from stages.core.prompts import Prompt
from stages.core.types import Reward

T = TypeVar("T")


class Turns:
    """Who may compute: one thread at a time."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._mine = threading.local()
        self._failed = False

    def each(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """What each of `jobs` returns. Raises what the first of those that failed raised, once all have ended."""
        self._failed = False
        pool = ThreadPoolExecutor(len(jobs), thread_name_prefix="slice")
        try:
            return [found.result() for found in [pool.submit(self._taken, job) for job in jobs]]
        finally:
            self._failed = True  # those that are still at work have nobody to work for
            pool.shutdown()

    def waiting(self, reward: Reward) -> Reward:
        """`reward`, during which others have their turn."""

        def scored(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
            with self._given_up():
                return reward(images, prompts)

        return scored

    def _taken(self, job: Callable[[], T]) -> T:
        with self._turn:
            self._mine.held = True
            self._check()
            return job()

    @contextmanager
    def _given_up(self) -> Iterator[None]:
        if not getattr(self._mine, "held", False):  # in a loss, which is computed alone
            yield
            return
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()
        self._check()

    def _check(self) -> None:
        if self._failed:
            raise InterruptedError("another slice failed")


def waited(reward: Reward | None) -> tuple[Reward | None, Turns | None]:
    """`reward` and who takes turns while it is computed; nobody does unless others compute it, which it says."""
    if reward is None or not getattr(reward, "elsewhere", False):
        return reward, None
    turns = Turns()
    return turns.waiting(reward), turns
