"""What each stage will take, from the parameters alone: memory, calls of networks, bytes on disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flows.project import graph, work
from flows.project.nodes import Node, Params
from flows.project.resources import Compute
from stages.core.needs import Needs
from stages.io import run
from stages.io.expected import Expected, Inputs
from stages.io.job import Job

_LORA = {"kind": "lora", "rank": 64, "alpha": 64.0, "targets": "default", "checkpointing": True}
_MOST_SLICES = 64


@dataclass(frozen=True)
class Planned:
    """A stage, or an arm of one, that is yet to run."""

    node: Node
    needs: Needs | None
    """None where it takes little, or nothing is known of it."""
    job: Job
    known: Inputs
    workers: int
    """That train together."""
    held: int
    """Bytes of prompts' features that a process holds."""


def planned(content: Params) -> Iterator[Planned]:
    """Every node, in the order in which they can run; `content` is whole and without faults."""
    expected: dict[str, Expected | None] = {}
    compute = Compute.of(content)
    for node in graph.nodes(content):
        job = work.job(node, {"seed": 0, **content})
        known = {name: expected[folder] for name, folder in job.inputs.items()}
        workers = compute.workers_of(node.stage)
        expected[node.folder], needs = _looked_at(job, known, workers)
        yield Planned(node, needs, job, known, workers, compute.held)


def _looked_at(job: Job, known: Inputs, workers: int) -> tuple[Expected | None, Needs | None]:
    cfg = run.configure(job)
    made = run.expect(job, cfg, known)
    needs = made and run.needs(job, cfg, known, made)
    if needs and needs.memory and (job.section.get("tune") or {}).get("kind") == "sharded":
        needs = replace(needs, memory=needs.memory.parted(workers))
    return made, needs


def remedy(row: Planned, budget: int) -> tuple[Sequence[str], int] | None:
    """The fewest switches with which a training fits into `budget` bytes, as parameters say them, and what it takes."""
    for section, said in _switches(row.job.section, row.job.where, row.workers):
        try:
            _, needs = _looked_at(replace(row.job, section=section), row.known, row.workers)
        except ValueError:  # this arm cannot be switched so
            continue
        if needs and needs.memory and needs.memory.total <= budget:
            return said, needs.memory.total
    return None


def _switches(
    section: Mapping[str, Any], where: str, workers: int
) -> Iterator[tuple[Mapping[str, Any], Sequence[str]]]:
    """Sections that take less memory, the smallest changes first."""
    tuned = section.get("tune") or {}
    ways: list[tuple[Mapping[str, Any], list[str]]] = [(section, [])]
    if tuned.get("kind") in ("lora", "sharded") and not tuned["checkpointing"]:
        ways.append(({**section, "tune": {**tuned, "checkpointing": True}}, [f"{where}.tune.checkpointing=true"]))
    if tuned.get("kind") == "full" and workers > 1:
        ways += [
            (
                {**section, "tune": {"kind": "sharded", "checkpointing": recomputed}},
                [f"+tune@{where}.tune=sharded", *more],
            )
            for recomputed, more in ((False, []), (True, [f"{where}.tune.checkpointing=true"]))
        ]
    if tuned.get("kind") == "full":
        ways.append(({**section, "tune": _LORA}, [f"+tune@{where}.tune=lora"]))
    for way, said in ways:
        if said:
            yield way, said
        now = section["budget"]["slices"]
        for slices in range(2 * now, _MOST_SLICES + 1, now):  # what workers shared before they share still
            cut = {**way, "budget": {**section["budget"], "slices": slices}}
            yield cut, [*said, f"{where}.budget.slices={slices}"]
