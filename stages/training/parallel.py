"""What workers that train one model say to each other: sums, a file, and whether they are still equal.

Sums are taken in pairs, ((a + b) + (c + d)), by slice and then by rank. Where slices and workers are powers of two
that is one and the same tree for any number of workers, so the result is bitwise the same. For other numbers a sum
of S terms in another order differs by at most (S - 1) 2^-24 of the sum of their magnitudes (float32).
Processes of `torch.distributed` are set up by whoever started them; with one worker nothing here needs them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stages.core.ranks import Ranks

T = TypeVar("T")
_LOST = "lost the other workers of this training"
Metric = Tensor | float


class Pairwise:
    """A running sum of equally shaped tensors, in pairs; it holds log2 of their number."""

    def __init__(self) -> None:
        self._held: list[tuple[int, Tensor]] = []

    def add(self, value: Tensor) -> None:
        """One term more."""
        terms = 1
        while self._held and self._held[-1][0] == terms:
            value = self._held.pop()[1] + value
            terms *= 2
        self._held.append((terms, value))

    def total(self) -> Tensor:
        """The sum of what was added."""
        whole = self._held[-1][1]
        for _, value in reversed(self._held[:-1]):
            whole = value + whole
        return whole

    @classmethod
    def of(cls, terms: Iterable[Tensor]) -> Tensor:
        """The sum of `terms`, at least one."""
        pile = cls()
        for term in terms:
            pile.add(term)
        return pile.total()


class Team:
    """The workers of one training, as one of them sees them."""

    def __init__(self, ranks: Ranks, device: str) -> None:
        self.ranks, self.device = ranks, device

    def total(self, own: Tensor) -> Tensor:
        """The sum over all workers of their `own` [n], the same bits on each.

        Every worker sums one part of the vector for all: as much traffic as a ring, in an order that is ours.
        """
        world = self.ranks.world
        if world == 1:
            return own
        size = -(-len(own) // world)
        sent = nn.functional.pad(own, (0, size * world - len(own)))
        parts, whole = torch.empty_like(sent), torch.empty_like(sent)
        _heard(lambda: dist.all_to_all_single(parts, sent))
        part = Pairwise.of(parts.view(world, size))
        _heard(lambda: dist.all_gather(list(whole.view(world, size)), part))
        return whole[: len(own)]

    def told(self, number: int) -> int:
        """The leader's number, which is below 2^24."""
        return int(self.total(torch.tensor([float(number if self.ranks.leads else 0)], device=self.device)))

    def gathered(self, own: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """The tensors of all slices, in their order, from this worker's `own`, of which all have the same shapes."""
        if self.ranks.world == 1:
            return [dict(each) for each in own]
        kinds = [(name, tensor) for each in own for name, tensor in each.items()]
        mine = torch.cat([tensor.flatten().double() for _, tensor in kinds])
        whole = mine.new_zeros(self.ranks.world, len(mine))
        whole[self.ranks.rank] = mine
        found = []
        for row in self.total(whole.flatten()).view_as(whole):  # exact, since all other terms are zero
            rows = row.split([tensor.numel() for _, tensor in kinds])
            told = [(name, part.view_as(like).to(like.dtype)) for (name, like), part in zip(kinds, rows, strict=True)]
            found += [dict(told[first : first + len(own[0])]) for first in range(0, len(told), len(own[0]))]
        return found

    def receive(self, file: Path) -> None:
        """Give every worker the leader's `file`, or none if the leader has none."""
        if self.ranks.world == 1:
            return
        content = file.read_bytes() if self.ranks.leads and file.is_file() else b""
        size = torch.tensor([len(content)], device=self.device)
        _heard(lambda: dist.broadcast(size, 0))
        if not int(size):
            return
        if self.ranks.leads:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self.device)
        else:
            data = torch.empty(int(size), dtype=torch.uint8, device=self.device)
        _heard(lambda: dist.broadcast(data, 0))
        if not self.ranks.leads:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data.cpu().numpy().tobytes())

    def agree(self, state: Mapping[str, Tensor], when: str) -> None:
        """ValueError if a role's tensors, "<role>:<name>", differ between workers: by software, hardware or damage."""
        if self.ranks.world == 1:
            return
        sums: dict[str, list[Tensor]] = {}
        for name, tensor in state.items():
            sums.setdefault(name.partition(":")[0], []).append(tensor.double().sum())
        mine = torch.stack([torch.stack(each).sum() for each in sums.values()])
        everyone = [torch.empty_like(mine) for _ in range(self.ranks.world)]
        _heard(lambda: dist.all_gather(everyone, mine))
        for rank, theirs in enumerate(everyone):
            unlike = [name for name, same in zip(sums, (theirs == everyone[0]).tolist(), strict=True) if not same]
            if unlike:
                raise ValueError(
                    f"{when}, worker {rank} of {self.ranks.world} has another {unlike[0]} than worker 0; see that all "
                    "machines have the same versions, or train with one worker"
                )


class Agreed:
    """Numbers that every slice draws for itself, and of which all take the first's: `World.agreed`."""

    def __init__(self, team: Team) -> None:
        self._team, self._numbers, self._place = team, list[int](), 0

    def begin(self) -> None:
        """A turn of all slices begins."""
        self._numbers, self._place = [], 0

    def next(self) -> None:
        """Its next slice does."""
        self._place = 0

    def __call__(self, number: int) -> int:
        """The number in the place of this slice's own."""
        if self._place == len(self._numbers):
            self._numbers.append(self._team.told(number))
        self._place += 1
        return self._numbers[self._place - 1]


def take_gradient(parameters: Sequence[nn.Parameter]) -> Tensor:
    """All gradients in one vector [n]; zero where none arrived. The parameters have none afterwards."""
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    for p in parameters:
        p.grad = None
    return flat


def give_gradient(parameters: Sequence[nn.Parameter], flat: Tensor) -> None:
    """The inverse of `take_gradient`."""
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p).to(p.dtype)


@contextmanager
def heard() -> Iterator[None]:
    """ConnectionError where a network that is held in parts loses the others in the midst of a call."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistBackendError) or "gloo" in str(error):  # of which it raises no class of its own
            raise ConnectionError(f"{_LOST}: {error}") from error
        raise


def _heard(call: Callable[[], T]) -> T:
    try:
        return call()
    except RuntimeError as error:
        raise ConnectionError(f"{_LOST}: {error}") from error
