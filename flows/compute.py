"""Ray: where tasks run, with how much, and workers that are warm before they are needed."""

import os
import socket
from collections.abc import Mapping
from typing import Any, Literal

from flows.table import Node
from stages.core.config import check, config

ADDRESS = "FEWSTEP_RAY_ADDRESS"
"""Environment variable: the Ray that the pipeline started, for its stages."""
_AWS = ("AWS_REQUEST", "AWS_RESPONSE", "AWS_ENDPOINT", "AWS_DEFAULT_REGION")
"""Beginnings of variables that workers elsewhere are told of. Credentials are not: machines have their own."""


TRAINING = ("teacher", "distill", "rl")
"""Stages whose units several workers can compute together."""


@config
class Compute:
    """Where stages compute. Nothing in here changes a result."""

    backend: Literal["local", "address"]
    address: str | None
    num_cpus: int | None
    device: Literal["cpu", "cuda"]
    cpus: Mapping[str, int]
    """Of one task, by stage, with a default; also its torch threads."""
    gpus: Mapping[str, float]
    workers: Mapping[str, int]
    """That train one model together, by stage, each with the cpus and gpus of a task; they share a batch's slices."""
    stall_s: float
    """A unit that reports nothing for this long is taken for hung, and ended."""
    place_s: float
    """Workers that train together and find no room for this long give up."""

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

    def total_cpus(self) -> int:
        """Cores of the local Ray."""
        return self.num_cpus or len(os.sched_getaffinity(0))


def connect(address: str) -> None:
    """Join the Ray at `address`; ValueError if it is not there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"compute.address={address}: no Ray answers there ({error}); start one with `fewstep up`, or correct it"
        ) from None
    import ray

    # A pipeline's own Ray has the right environment already; workers of any other get it here.
    foreign = {} if address == os.environ.get(ADDRESS) else {"runtime_env": {"env_vars": _worker_environment()}}
    ray.init(address=address, namespace="prefect", log_to_driver=False, logging_level="error", **foreign)


def require(compute: Compute, stage: str) -> None:
    """ValueError if the Ray that this process has joined cannot hold one task of `stage`."""
    import ray

    address = ray.get_runtime_context().gcs_address
    count = compute.workers_of(stage)
    need = {"CPU": count * float(compute.cpus_of(stage)), "GPU": count * float(compute.gpus_of(stage))}
    have = ray.cluster_resources()
    short = [name for name, amount in need.items() if have.get(name, 0.0) < amount]
    if short:
        name = short[0]
        what = f"a task of {stage}" if count == 1 else f"{stage} with {count} workers"
        raise ValueError(
            f"compute.{name.lower()}s: {what} asks for {need[name]:g} {name}, the Ray at {address} has "
            f"{have.get(name, 0.0):g}; lower it in params/compute/, or join a larger cluster"
        )


def _worker_environment() -> dict[str, str]:
    prefixes = (
        "PREFECT_",
        "RAY_ACCEL",
        "AWS_REQUEST",
        "AWS_RESPONSE",
        "AWS_ENDPOINT",
        "AWS_DEFAULT_REGION",
        "PYTHONPATH",
        "TOKENIZERS_",
    )
    return {name: value for name, value in os.environ.items() if name.startswith(prefixes) and name != "PREFECT_HOME"}
