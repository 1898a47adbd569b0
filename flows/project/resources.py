"""The section `compute` of the parameters: where stages compute, and with how much."""

import os
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from flows.project.nodes import Node
from stages.core.config import check, config

TRAINING = ("teacher", "distill", "rl")
"""Stages whose units several workers can compute together."""


JUDGED = ("rl",)
"""Stages whose samples reward workers can score."""


@config
class RewardWorkers:
    """What scores the samples of a unit, beside it."""

    workers: NonNegativeInt
    """Of each unit; with 0 it scores its samples itself."""
    cpus: PositiveInt
    """Of each worker; also its torch threads."""
    gpus: NonNegativeFloat
    """Of each worker."""
    resources: Mapping[str, float]
    """Of each worker: whatever else the cluster's nodes were started with."""

    def needs(self) -> dict[str, float]:
        """Name of a resource -> how much of it one worker takes."""
        return {"CPU": float(self.cpus), "GPU": self.gpus, **self.resources}


@config
class Compute:
    """Where stages compute. Nothing in here changes a result."""

    backend: Literal["local", "address"]
    address: str | None
    num_cpus: int | None
    nodes: int | None
    """The cluster at `address` must have at least so many."""
    device: Literal["cpu", "cuda"]
    cpus: Mapping[str, int]
    """Of one task, by stage, with a default; also its torch threads."""
    gpus: Mapping[str, float]
    """Of one task, by stage, with a default; half a GPU lets two tasks share one."""
    workers: Mapping[str, int]
    """That train one model together, by stage, each with the cpus and gpus of a task; they share a batch's slices."""
    resources: Mapping[str, Mapping[str, float]]
    """Of one task, by stage: whatever else the cluster's nodes were started with."""
    rewards: RewardWorkers
    stall_s: float
    """A unit that reports nothing for this long is taken for hung, and ended."""
    place_s: float
    """A gang, reward workers, or a stage that waits for GPU slots: what finds no room for this long gives up."""

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "Compute":
        """The section `compute`, checked."""
        made = check(cls, params["compute"], "compute")
        if made.backend == "address" and not made.address:
            raise ValueError("compute.address: missing; compute.backend=address needs the head's host:port")
        for name in ("cpus", "gpus", "workers"):
            if "default" not in getattr(made, name):
                raise ValueError(f"compute.{name}.default: missing")
        for stage, count in made.workers.items():
            if stage not in (*TRAINING, "default"):
                raise ValueError(f"compute.workers.{stage}: only {', '.join(TRAINING)} are trained by several workers")
            if count < 1:
                raise ValueError(f"compute.workers.{stage}={count}: one worker at least")
        return made

    def cpus_of(self, stage: str) -> int:
        """CPU cores of one task of `stage`."""
        return self.cpus.get(stage, self.cpus["default"])

    def gpus_of(self, stage: str) -> float:
        """GPUs of one task of `stage`."""
        return self.gpus.get(stage, self.gpus["default"])

    def workers_of(self, stage: str) -> int:
        """Workers that compute one unit of `stage` together."""
        return self.workers.get(stage, self.workers["default"]) if stage in TRAINING else 1

    def judges_of(self, stage: str) -> int:
        """Reward workers of one unit of `stage`."""
        return self.rewards.workers if stage in JUDGED else 0

    def check_shares(self, node: Node, params: Mapping[str, Any]) -> None:
        """ValueError if `node`'s workers could not share its batch alike, or would share a GPU."""
        count, gpus = self.workers_of(node.stage), self.gpus_of(node.stage)
        if count == 1:
            return
        named = node.stage if node.stage in self.workers else "default"
        slices = node.section(params).get("budget", {}).get("slices", 1)
        if slices % count:
            where = node.stage if node.arm is None else f"{node.stage}.arms.{node.arm}"
            raise ValueError(
                f"compute.workers.{named}={count} does not divide {where}.budget.slices={slices}; workers share a "
                "batch's slices alike: raise slices, which changes the result, or lower workers, which does not"
            )
        if gpus != int(gpus):
            raise ValueError(
                f"compute.gpus: {gpus:g} for each of compute.workers.{named}={count}; workers that train together "
                "need whole GPUs"
            )

    def device_of(self, stage: str) -> str:
        """The device follows from the resources, not from what the machine happens to show."""
        return self.device if self.gpus_of(stage) else "cpu"

    def needs(self, stage: str) -> dict[str, float]:
        """Name of a resource -> how much of it one task of `stage` takes."""
        taken = {"CPU": float(self.cpus_of(stage)), "GPU": float(self.gpus_of(stage))}
        return taken | {name: float(amount) for name, amount in self.resources.get(stage, {}).items()}

    def local_cpus(self) -> int:
        """Cores of the local Ray."""
        return self.num_cpus or len(os.sched_getaffinity(0))
