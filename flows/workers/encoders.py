"""Encoders: Ray actors that read prompts for a unit, where `encode` made no table of them.

One holds a checkpoint's text encoders and the rows that it was asked for last; whoever asks, a lone worker or each of a
gang, keeps those that it was told last itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flows.project.resources import Compute
from flows.workers.beside import Bench, answers, started

if TYPE_CHECKING:  # only encoders and those who ask them need torch
    from stages.core.types import Features
    from stages.models.table import Recent

_WHO = "encoder"


def bench(compute: Compute, stage: str) -> Bench:
    """The encoders for one unit of `stage`, unless it says that it looks no prompt up."""
    called = {"who": _WHO, "key": "compute.encoders", "wanted": ("prompts", True)}
    return Bench.of(compute, compute.encoders, compute.encoders_of(stage), **called)


class Encoder:
    """The actor."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._job = job

    @cached_property
    def _rows(self) -> "Recent":
        import torch

        from stages.io.job import Job
        from stages.io.storage import use
        from stages.models.lookup import table_of
        from stages.models.table import Recent

        job = Job(**self._job)
        torch.set_num_threads(job.threads)
        use(job.endpoint)
        found = table_of(job.input("encode"), job.device, held=job.held)
        assert isinstance(found, Recent)
        return found

    def sit(self) -> str:
        """Find what it encodes with as it should be, to be read when it is first asked; and say where it is."""
        import ray

        assert self._rows
        return ray.get_runtime_context().get_node_id()

    def encode(self, rows: Sequence[int]) -> "Mapping[int, Features]":
        """The features of these rows."""
        return self._rows.read(rows)


class Encoders:
    """Encoders as one source of rows, each row always of the same one. It can be sent to other workers."""

    def __init__(self, encoders: Sequence[Any], silence_s: float) -> None:
        self._encoders, self._silence_s = encoders, silence_s

    def __call__(self, rows: Sequence[int]) -> "dict[int, Features]":
        """The features of these rows. Raises what an encoder raised, Passing where one is lost."""
        parts: dict[int, list[int]] = {}
        for row in rows:
            parts.setdefault(row % len(self._encoders), []).append(row)
        calls = [self._encoders[number].encode.remote(part) for number, part in parts.items()]
        return {row: found for part in answers(calls, self._silence_s, _WHO) for row, found in part.items()}


@contextmanager
def seated(bench: Bench, job: Mapping[str, Any], seat: int) -> Iterator[tuple[Encoders | None, list[str]]]:
    """Start the encoders for a unit of `job`, from `seat` on, until the context ends; and the nodes they are on."""
    with started(Encoder, bench, job, seat=seat) as (encoders, nodes):
        yield Encoders(encoders, bench.silence_s) if encoders else None, nodes
