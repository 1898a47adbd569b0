"""Slices of an iteration that are prepared beside each other: while one waits for its reward, another computes.

They take turns, so that never two compute at once: each draws from its own stream, and finds what it would find alone.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor

from stages.core.prompts import Prompt
from stages.core.types import Reward

T = TypeVar("T")


class Turns:
    """Who may compute: one of `count` threads at a time."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="slice")  # kept: a new thread finds no memory warm
        self._turn = threading.Lock()
        self._failed = False

    def each(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """What each of at most `count` jobs returns. Raises what the first of those that failed raised."""
        self._failed = False
        found = [self._pool.submit(self._taken, job) for job in jobs]
        try:
            return [each.result() for each in found]
        finally:
            self._failed = True  # those that are still at work have nobody to work for
            wait(found)

    def waiting(self, reward: Reward) -> Reward:
        """`reward`, during which others have their turn."""

        def scored(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
            with self._given_up():
                return reward(images, prompts)

        return scored

    def _taken(self, job: Callable[[], T]) -> T:
        with self._turn:
            self._check()
            return job()

    @contextmanager
    def _given_up(self) -> Iterator[None]:
        if not self._turn.locked():  # in a loss, which is computed alone
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


def waited(reward: Reward | None, count: int) -> tuple[Reward | None, Turns | None]:
    """`reward`, and the turns of `count` slices while it is computed: none unless others compute it, which it says."""
    if count == 1 or not getattr(reward, "elsewhere", False):
        return reward, None
    assert reward is not None
    turns = Turns(count)
    return turns.waiting(reward), turns
