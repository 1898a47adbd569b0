"""Ray: where tasks run and with how much, joining it, and noticing that it died."""

import os
import socket
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from flows import mail
from flows.table import Node
from stages.core.config import check, config

ADDRESS = "FEWSTEP_RAY_ADDRESS"
"""Environment variable: the Ray that the pipeline started, for its stages."""
_TOLD = ("PREFECT_", "RAY_ACCEL", "AWS_REQUEST", "AWS_RESPONSE", "AWS_ENDPOINT", "AWS_DEFAULT_REGION", "TOKENIZERS_")
"""Beginnings of variables that workers elsewhere are told of; Ray shows them to whoever sees its dashboard."""
_NOT_TOLD = ("PREFECT_HOME", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")
"""A folder of this machine, and credentials: Prefect brings its own along with a task, machines have those of AWS."""
_VITAL: list[tuple[str, int]] = []
"""Where the Ray that this process has joined listens: its GCS, and the raylet of this node."""


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

    def total_cpus(self) -> int:
        """Cores of the local Ray, or of the cluster that this process has joined."""
        if self.backend == "address":
            import ray

            return max(1, int(ray.cluster_resources().get("CPU", 1)))
        return self.num_cpus or len(os.sched_getaffinity(0))


def connect(address: str) -> None:
    """Join the Ray at `address`; ValueError if it is not there, or is of another kind than this process."""
    host, _, port = address.rpartition(":")
    try:
        _reach(host, int(port))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"compute.address={address}: no Ray answers there ({error}); start one with `fewstep up`, or correct it"
        ) from None
    import ray

    # A pipeline's own Ray has the right environment already; workers of any other get it here.
    own = address == os.environ.get(ADDRESS)
    foreign = {} if own else {"runtime_env": {"env_vars": _worker_environment()}}
    try:
        ray.init(address=address, namespace="prefect", log_to_driver=False, logging_level="error", **foreign)
    except (RuntimeError, ConnectionError) as error:  # another version, no node of the cluster here, another token
        if own:
            raise ChildProcessError(f"Ray died as it was joined ({address}); run it again") from None
        raise ValueError(
            f"compute.address={address}: could not be joined: {str(error).strip().splitlines()[0]}; this machine must "
            "be a node of the cluster, with the same Python and Ray (docs/cluster.md)"
        ) from None
    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    _VITAL[:] = [(host, int(port)), (node["NodeManagerAddress"], node["NodeManagerPort"])]
    if foreign:
        mail.open_office(here)


def check_alive() -> None:
    """ChildProcessError if the Ray that this process has joined has died: asking it anything would take a minute."""
    for host, port in _VITAL:
        try:
            _reach(host, port)
        except OSError:
            raise ChildProcessError(
                f"Ray died (nothing answers at {host}:{port}); finished units are kept, run it again to go on from "
                "there"
            ) from None


def _reach(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=5).close()


def _worker_environment() -> dict[str, str]:
    told = {name: value for name, value in os.environ.items() if name.startswith(_TOLD) and name not in _NOT_TOLD}
    # Before what the node itself has: a folder that is not there does no harm.
    paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), "${PYTHONPATH}"]))
    return told | {"PYTHONPATH": paths, mail.OFFICE: mail.new_name()}
