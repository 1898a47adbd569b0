"""Actors beside a unit, with cores, GPUs or resources of their own: where they sit, and what they answer.

What an actor does, it does the same way whenever it is asked again, so Ray starts a dead one anew and repeats the call:
the result is the same, whoever died. Each has a method `sit`, which says where it is once it can work.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from flows.project.resources import Beside, Compute
from flows.runtime.errors import Passing

_RESTARTS = 3


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Equal actors of one unit; none is a bench too."""

    who: str
    """What people call one: reward worker."""
    key: str
    """The parameters that state them: compute.rewards."""
    wanted: tuple[str, bool]
    """The word of a unit that says whether it wants them, and what a unit without it wants."""
    count: int
    needs: Mapping[str, float]
    """Resource -> how much of it each takes."""
    threads: int
    device: str
    place_s: float
    """How long they may take to find room and to be ready."""
    silence_s: float
    """How long they may take to answer what they were asked."""
    python: str | None
    """Their interpreter; null is ours."""

    def beside(self, unit: Mapping[str, Any]) -> "Bench":
        """The bench for `unit`: this one where it wants such actors, else an empty one."""
        return self if unit.get(*self.wanted) else replace(self, count=0)

    @property
    def gpus(self) -> float:
        """Of all."""
        return self.needs["GPU"] * self.count

    @classmethod
    def of(cls, compute: Compute, stated: Beside, count: int, **called: Any) -> "Bench":
        """`count` actors, each as the parameters state."""
        return cls(
            count=count,
            needs=stated.needs(),
            threads=stated.cpus,
            device=compute.device if stated.gpus else "cpu",
            place_s=compute.place_s,
            silence_s=compute.stall_s,
            python=stated.python,
            **called,
        )

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; `Bench(**that)` is the bench again."""
        return asdict(self)


@contextmanager
def started(
    actor: type, bench: Bench, job: Mapping[str, Any], *given: Any, seat: int = 1
) -> Iterator[tuple[list[Any], list[str]]]:
    """Start the actors of `bench`, each told `job` and `given`, until the context ends; and the nodes they are on.

    In the placement group of this task, where it has one, from `seat` on. Raises ValueError where they find no room.
    """
    if not bench.count:
        yield [], []
        return
    import ray

    from stages.io.job import Job

    told = replace(Job(**job), device=bench.device, threads=bench.threads).to_json()
    others = dict(bench.needs)
    options: dict[str, Any] = {"num_cpus": others.pop("CPU"), "num_gpus": others.pop("GPU"), "resources": others}
    if bench.python:
        options["runtime_env"] = {"py_executable": bench.python}
    made = ray.remote(max_restarts=_RESTARTS, max_task_retries=_RESTARTS)(actor)
    actors = [made.options(**options, **_seat(seat + n)).remote(told, *given) for n in range(bench.count)]
    try:
        yield actors, _places(actors, bench)
    finally:
        for each in actors:
            ray.kill(each)  # type: ignore[arg-type] (ray has two types of handles)


@contextmanager
def placement(benches: Sequence[Bench], needs: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Options for a task that `needs` so much and seats `benches`: all find room together or wait together.

    Else two units could each hold what the other's actors wait for. The task has the first place, then each bench in
    turn.
    """
    seats = [_present(bench.needs) for bench in benches for _ in range(bench.count)]
    if not seats:
        yield {}
        return
    from ray.util import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group([_present(needs), *seats])
    try:
        yield {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, 0)}
    finally:
        remove_placement_group(group)


def _present(needs: Mapping[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in needs.items() if amount}


def _seat(number: int) -> dict[str, Any]:
    from ray.util import get_current_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = get_current_placement_group()
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, number)} if group else {}


def _places(actors: Sequence[Any], bench: Bench) -> list[str]:
    try:
        return answers([each.sit.remote() for each in actors], bench.place_s, bench.who)
    except TimeoutError:
        asked = ", ".join(f"{amount:g} {name}" for name, amount in _present(bench.needs).items())
        raise ValueError(
            f"the cluster had no room for {bench.count} {bench.who}s of {asked} each within {bench.place_s:g} s; end "
            f"what holds it, lower {bench.key}, or raise compute.place_s"
        ) from None


def answers(asked: Sequence[Any], limit_s: float, who: str) -> list[Any]:
    """What these calls of actors, each a `who`, came to. Raises what one raised, Passing where one is lost."""
    import ray.exceptions

    try:
        return ray.get(list(asked), timeout=limit_s)
    except ray.exceptions.GetTimeoutError:
        raise TimeoutError(
            f"{_a(who)} did not answer for {limit_s:g} s; look into what it computes, or raise compute.stall_s"
        ) from None
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError:
        raise Passing(
            f"{_a(who)} died {_RESTARTS + 1} times; finished units are kept, run it again to go on from there"
        ) from None


def _a(who: str) -> str:
    return f"{'an' if who[0] in 'aeiou' else 'a'} {who}"
