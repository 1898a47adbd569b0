"""The section `compute` of the parameters: where stages compute, and with how much."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from flows.project.nodes import STAGES, Node
from stages.core.config import check, config
from stages.core.messages import brief, join, listed, shown
from stages.core.ranges import Positive, Size

TRAINING = ("teacher", "distill", "rl")
"""Stages whose units several workers can compute together."""
JUDGED = ("rl", "evaluate")
"""Stages whose samples reward workers can score."""
READING = ("trajectories", "reflow", "distill", "rl", "evaluate")
"""Stages that look prompts up."""


def _in_steps(value: float) -> float:
    if 0 < value < 1e-4:
        raise ValueError(f"{value:g}: Ray counts in steps of 0.0001")
    return value


def _undivided(value: float) -> float:
    if value > 1 and value != int(value):
        raise ValueError(f"{value:g} GPUs: name a part of one, or whole ones")
    return value


def _not_ray_s(name: str) -> str:
    if name in ("", "CPU", "GPU", "memory", "object_store_memory"):
        raise ValueError(
            f"{shown(name)} is no resource that nodes are started with; cpus and gpus have their own words"
        )
    return name


Amount = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False), AfterValidator(_in_steps)]
Gpus = Annotated[Amount, AfterValidator(_undivided)]
Resources = Mapping[Annotated[str, AfterValidator(_not_ray_s)], Amount]


@config
class Beside:
    """Workers beside a unit, which score its samples or encode its prompts."""

    workers: Annotated[int, Field(ge=0, le=10**4)]
    """Of each unit; with 0 it does so itself."""
    cpus: Size
    """Of each worker; also its torch threads."""
    gpus: Gpus
    """Of each worker."""
    resources: Resources
    """Of each worker: whatever else the cluster's nodes were started with."""
    python: Annotated[str, Field(min_length=1)] | None
    """Their interpreter, on every node that they may be on: of an environment for packages that clash with ours. It has
    this project and the same Ray, and Python of the same minor version; null is ours."""

    def needs(self) -> dict[str, float]:
        """Name of a resource -> how much of it one worker takes."""
        return {"CPU": float(self.cpus), "GPU": self.gpus, **self.resources}


@config
class Compute:
    """Where stages compute. Nothing in here changes a result, but the last bits of what is tuned `sharded`."""

    backend: Literal["local", "address"]
    address: str | None
    num_cpus: Size | None
    nodes: Size | None
    """The cluster at `address` must have at least so many."""
    device: Literal["cpu", "cuda"]
    cpus: Mapping[str, Size]
    """Of one task, by stage, with a default; also its torch threads."""
    gpus: Mapping[str, Gpus]
    """Of one task, by stage, with a default; half a GPU lets two tasks share one."""
    workers: Mapping[str, Size]
    """That train one model together, by stage, each with the cpus and gpus of a task; they share a batch's slices."""
    resources: Mapping[str, Resources]
    """Of one task, by stage: whatever else the cluster's nodes were started with."""
    rewards: Beside
    """They score samples."""
    encoders: Beside
    """They encode prompts, where there is no table of them."""
    text_gib: Positive
    """Of prompts' features that a process holds: what it was told last, where all of them are more than that."""
    stall_s: Positive
    """A unit that reports nothing for this long is taken for hung, and ended."""
    place_s: Positive
    """A gang, workers beside a unit, or a stage that waits for GPU slots: what finds no room for this long gives up."""

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "Compute":
        """The section `compute`, checked."""
        made = check(cls, params["compute"], "compute")
        if params.get("encode", {}).get("table") != "on_demand":
            made = replace(made, encoders=replace(made.encoders, workers=0))
        faults = list(made._faults())
        if faults:
            raise ValueError("\n".join(faults))
        return made

    def _faults(self) -> Iterator[str]:
        if self.backend == "address" and not self.address:
            yield "compute.address: missing; compute.backend=address needs the head's host:port"
        elif self.address and not re.fullmatch(r"[^\s/@]+:\d{1,5}", self.address):
            yield f"compute.address={brief(self.address)}: should be host:port"
        named = {"cpus": (self.cpus, STAGES), "gpus": (self.gpus, STAGES), "workers": (self.workers, TRAINING)}
        for name, (by_stage, stages) in named.items():
            if "default" not in by_stage:
                yield f"compute.{name}.default: missing"
            for stage in by_stage.keys() - {"default", *stages}:
                yield f"{join('compute', name, stage)}: only {listed([*stages, 'default'])} may be named here"
        for stage in self.resources.keys() - STAGES:
            yield f"{join('compute.resources', stage)}: no such stage; valid: {listed(STAGES)}"

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

    def encoders_of(self, stage: str) -> int:
        """Encoders of one unit of `stage`."""
        return self.encoders.workers if stage in READING else 0

    @property
    def held(self) -> int:
        """Bytes of prompts' features that a process holds."""
        return int(self.text_gib * 2**30)

    def check_shares(self, node: Node, params: Mapping[str, Any]) -> None:
        """ValueError if `node`'s workers could not share its batch alike, or would share a GPU."""
        count, gpus = self.workers_of(node.stage), self.gpus_of(node.stage)
        if count == 1:
            return
        named = node.stage if node.stage in self.workers else "default"
        slices = node.section(params).get("budget", {}).get("slices", 1)
        if slices % count:
            raise ValueError(
                f"compute.workers.{named}={count} does not divide {node.where}.budget.slices={slices}; workers share a "
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
