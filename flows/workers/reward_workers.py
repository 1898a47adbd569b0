"""Reward workers: Ray actors that score what an RL unit samples.

A judge knows no Ray and no training: it holds a unit's reward, and scores what it is sent. It keeps nothing between
two calls. A reward whose packages clash with ours runs in an environment of the judges' own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from flows.project.resources import Compute
from flows.workers.beside import Bench, answers, started

if TYPE_CHECKING:  # only judges and those who ask them need torch
    from torch import Tensor

    from stages.core.prompts import Prompt
    from stages.core.types import Reward

_WHO = "reward worker"


def bench(compute: Compute, stage: str) -> Bench:
    """The judges for one unit of `stage`, where its samples are scored."""
    called = {"who": _WHO, "key": "compute.rewards", "wanted": ("judged", False)}
    return Bench.of(compute, compute.rewards, compute.judges_of(stage), **called)


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
        scores = answers(calls, self._silence_s, _WHO)
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
    """Start the judges for `unit` of `job`, until the context ends; yields them and the nodes they are on."""
    with started(Judge, bench, job, unit) as (judges, nodes):
        whole_groups = unit.get("judged") == "groups"
        yield Panel(judges, bench.silence_s, whole_groups=whole_groups) if judges else None, nodes
