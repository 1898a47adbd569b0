"""Rows that lie in parts, too many to hold at once, in a drawn order that is a pure function of the position in it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor

from stages.core.rng import stream

Rows = Mapping[str, Tensor]
Group = tuple[int, ...]
"""Numbers of the parts that are held together, in rising order."""


class Walk:
    """Batches without replacement, epoch after epoch.

    An epoch takes the parts in a drawn order, as many at a time as the buffer holds, and the rows of those in a drawn
    order. The next parts are read while the present ones are used, so that up to two buffers are in memory.
    """

    def __init__(
        self, rows: Sequence[int], read: Callable[[int], Rows], *, buffer: int, batch_size: int, seed: int
    ) -> None:
        """`rows[i]` rows lie in the part that `read(i)` reads; `buffer` rows are held, but no less than one part."""
        self._rows, self._read, self._buffer = rows, read, buffer
        self._batch_size, self._seed = batch_size, seed
        self._groups = lru_cache(maxsize=2)(self._draw_groups)
        self._order = lru_cache(maxsize=1)(self._draw_order)
        self._held: tuple[Group, Rows] = ((), {})
        self._coming: tuple[Group, Future[Rows]] | None = None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="rows")

    def __call__(self, iteration: int) -> Rows:
        """The batch of `iteration`: B rows of the endless order, from iteration * B on."""
        pieces = []
        for epoch, group, first, last in self._stretches(iteration * self._batch_size, self._batch_size):
            held, order = self._hold(epoch, group), self._order(epoch, group)[first:last]
            pieces.append({name: tensor[order] for name, tensor in held.items()})
        if len(pieces) == 1:
            return pieces[0]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    def _stretches(self, position: int, count: int) -> Iterator[tuple[int, int, int, int]]:
        """(epoch, group, first, last): what to take of which groups for `count` rows from `position` on."""
        end = position + count
        while position < end:
            epoch, offset = divmod(position, sum(self._rows))
            for group, members in enumerate(self._groups(epoch)):
                if offset < self._size(members):
                    taken = min(end - position, self._size(members) - offset)
                    yield epoch, group, offset, offset + taken
                    position += taken
                    break
                offset -= self._size(members)

    def _draw_groups(self, epoch: int) -> list[Group]:
        groups: list[list[int]] = []
        room = 0
        for part in torch.randperm(len(self._rows), generator=stream(self._seed, "batch/parts", epoch)).tolist():
            if not groups or self._rows[part] > room:
                groups.append([])
                room = self._buffer
            groups[-1].append(part)
            room -= self._rows[part]
        return [tuple(sorted(members)) for members in groups]

    def _draw_order(self, epoch: int, group: int) -> Tensor:
        """The rows of a group, each by its place among those that are held."""
        rng = stream(self._seed, "batch/rows", epoch * len(self._rows) + group)
        return torch.randperm(self._size(self._groups(epoch)[group]), generator=rng)

    def _hold(self, epoch: int, group: int) -> Rows:
        """A group's rows; those of the group after it are on their way."""
        members = self._groups(epoch)[group]
        if self._held[0] != members:
            self._held = (), {}  # goes before the next comes
            waiting = self._coming[1] if self._coming and self._coming[0] == members else self._fetch(members)
            self._held, self._coming = (members, waiting.result()), None
        if self._coming is None:
            last = group + 1 == len(self._groups(epoch))
            after = self._groups(epoch + 1)[0] if last else self._groups(epoch)[group + 1]
            if after != members:
                self._coming = after, self._fetch(after)
        return self._held[1]

    def _fetch(self, members: Group) -> Future[Rows]:
        return self._reader.submit(self._join, members)

    def _join(self, members: Group) -> Rows:
        """Each part goes to its place as it comes: joined at the end, all would be held twice."""
        whole: dict[str, Tensor] = {}
        first = 0
        for part in members:
            for name, tensor in self._read(part).items():
                if name not in whole:
                    whole[name] = tensor.new_empty(self._size(members), *tensor.shape[1:])
                whole[name][first : first + self._rows[part]] = tensor
            first += self._rows[part]
        return whole

    def _size(self, members: Group) -> int:
        return sum(self._rows[part] for part in members)
