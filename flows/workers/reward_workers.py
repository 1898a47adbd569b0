"""Reward workers: Ray actors that score what an RL unit samples, with cores, GPUs or resources of their own.

A judge knows no Ray and no training: it holds a unit's reward, and scores what it is sent. It keeps nothing between
two calls, so Ray starts a dead one anew and asks it again: the result is the same, whoever died and whoever scored. A
reward whose packages clash with ours runs in an environment of the judges' own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from flows.project.resources import Compute
from flows.runtime.errors import Passing

if TYPE_CHECKING:  # only judges and those who ask them need torch
    from torch import Tensor

    from stages.core.prompts import Prompt
    from stages.core.types import Reward

_RESTARTS = 3


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The judges of one unit; none is a bench too."""

    count: int
    needs: Mapping[str, float]
    """Resource -> how much of it each takes."""
    threads: int
    device: str
    place_s: float
    """How long they may take to find room and to load what they score with."""
    silence_s: float
    """How long they may take to score what they were sent."""
    python: str | None
    """Their interpreter; null is ours."""

    def beside(self, unit: Mapping[str, Any]) -> "Bench":
        """The bench for `unit`: this one where its samples are scored, else an empty one."""
        return self if unit.get("judged") else replace(self, count=0)

    @property
    def gpus(self) -> float:
        """Of all."""
        return self.needs["GPU"] * self.count

    @classmethod
    def of(cls, compute: Compute, stage: str) -> "Bench":
        """The judges for one unit of `stage`."""
        rewards = compute.rewards
        return cls(
            count=compute.judges_of(stage),
            needs=rewards.needs(),
            threads=rewards.cpus,
            device=compute.device if rewards.gpus else "cpu",
            place_s=compute.place_s,
            silence_s=compute.stall_s,
            python=rewards.python,
        )

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; `Bench(**that)` is the bench again."""
        return asdict(self)


class Judge:
    """The actor."""

    def __init__(self, job: Mapping[str, Any], unit: Mapping[str, Any]) -> None:
        self._job, self._unit = job, unit

    @cached_property
    def _reward(self) -> "Reward":  # here, since what a constructor raises comes out as an actor's death
        from stages.io import run
        from stages.io.job import Job

        return run.reward(Job(**self._job), self._unit)

    def sit(self) -> str:
        """Load what it scores with, and say where it is: a Ray node id."""
        import ray

        assert self._reward
        return ray.get_runtime_context().get_node_id()

    def score(self, images: "Tensor", prompts: "Sequence[Prompt]") -> "Tensor":
        """Rewards [B] of images [B, ...] for B prompts."""
        return self._reward(images.to(self._job["device"]), prompts).cpu()


class Panel:
    """Judges as one reward: each scores a part of the samples. It can be sent to other workers."""

    elsewhere = True
    """Who calls it only waits, and may let others compute."""

    def __init__(self, judges: Sequence[Any], silence_s: float, *, whole_groups: bool) -> None:
        self._judges, self._silence_s, self._whole_groups = judges, silence_s, whole_groups

    def __call__(self, images: "Tensor", prompts: "Sequence[Prompt]") -> "Tensor":
        """Rewards [B], in the order of the images. Raises what a judge raised, Passing where one is lost."""
        import torch

        sent = images.detach().cpu()
        calls = [
            judge.score.remote(sent[part], prompts[part])
            for judge, part in zip(self._judges, self._parts(prompts), strict=False)  # few samples leave some idle
        ]
        scores = _answers(calls, self._silence_s)
        return torch.cat(scores).to(images.device)

    def _parts(self, prompts: "Sequence[Prompt]") -> list[slice]:
        """Of about as many samples each; samples that are compared with each other are in one."""
        import torch

        from stages.core.prompts import runs

        ends = [run.stop for run in runs(prompts)] if self._whole_groups else range(1, len(prompts) + 1)
        shares = torch.tensor(ends).tensor_split(len(self._judges))
        return [slice(*two) for two in pairwise([0, *(int(share[-1]) for share in shares if len(share))])]


@contextmanager
def seated(bench: Bench, job: Mapping[str, Any], unit: Mapping[str, Any]) -> Iterator[tuple[Panel | None, list[str]]]:
    """Start the judges for `unit` of `job`, until the context ends; yields them and the nodes they are on.

    In the placement group of this task, where it has one. Raises ValueError where they find no room.
    """
    if not bench.count:
        yield None, []
        return
    import ray

    from stages.io.job import Job

    told = replace(Job(**job), device=bench.device, threads=bench.threads).to_json()
    others = dict(bench.needs)
    options: dict[str, Any] = {"num_cpus": others.pop("CPU"), "num_gpus": others.pop("GPU"), "resources": others}
    if bench.python:
        options["runtime_env"] = {"py_executable": bench.python}
    judge = ray.remote(max_restarts=_RESTARTS, max_task_retries=_RESTARTS)(Judge)
    judges = [judge.options(**options, **_seat(number)).remote(told, unit) for number in range(bench.count)]
    try:
        yield Panel(judges, bench.silence_s, whole_groups=unit.get("judged") == "groups"), _places(judges, bench)
    finally:
        for each in judges:
            ray.kill(each)  # type: ignore[arg-type] (ray has two types of handles)


@contextmanager
def placement(bench: Bench, needs: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Options for a task that `needs` so much and seats `bench`: both find room together or wait together.

    Else two units could each hold what the other's judges wait for.
    """
    if not bench.count:
        yield {}
        return
    from ray.util import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group([_present(needs), *[_present(bench.needs)] * bench.count])
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
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, 1 + number)} if group else {}


def _places(judges: Sequence[Any], bench: Bench) -> list[str]:
    try:
        return _answers([judge.sit.remote() for judge in judges], bench.place_s)
    except TimeoutError:
        asked = ", ".join(f"{amount:g} {name}" for name, amount in _present(bench.needs).items())
        raise ValueError(
            f"the cluster had no room for {bench.count} reward workers of {asked} each within {bench.place_s:g} s; end "
            "what holds it, lower compute.rewards, or raise compute.place_s"
        ) from None


def _answers(asked: Sequence[Any], limit_s: float) -> list[Any]:
    import ray.exceptions

    try:
        return ray.get(list(asked), timeout=limit_s)
    except ray.exceptions.GetTimeoutError:
        raise TimeoutError(
            f"a reward worker did not answer for {limit_s:g} s; look into what it computes, or raise compute.stall_s"
        ) from None
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError:
        raise Passing(
            f"a reward worker died {_RESTARTS + 1} times; finished units are kept, run it again to go on from there"
        ) from None
