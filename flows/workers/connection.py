"""Ray: where tasks run and with how much, joining it, and noticing that it died."""

import logging
import os
import socket
from typing import Any

from flows.project.resources import Compute
from flows.runtime import addresses, worker_forks
from flows.runtime.errors import Passing
from flows.workers import collector

_TOLD = ("PREFECT_", "RAY_ACCEL", "AWS_REQUEST", "AWS_RESPONSE", "AWS_ENDPOINT", "AWS_DEFAULT_REGION", "TOKENIZERS_")
"""Beginnings of variables that workers elsewhere are told of; Ray shows them to whoever sees its dashboard."""
_NOT_TOLD = ("PREFECT_HOME", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")
"""A folder of this machine, and credentials: Prefect brings its own along with a task, machines have those of AWS."""
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
_VITAL: list[tuple[str, int]] = []
"""Where the Ray that this process has joined listens: its GCS, and the raylet of this node."""


def connect(address: str) -> None:
    """Join the Ray at `address`; Passing where none answers, ValueError where it is of another kind."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise ValueError(f"compute.address={address}: must be the head's host:port")
    try:
        _reach(host, int(port))
    except OSError as error:
        raise Passing(
            f"compute.address={address}: no Ray answers there ({error}); start one with `fewstep up`, or correct it"
        ) from None
    import ray

    # A pipeline's own Ray has the right environment already; workers of any other get it here.
    own = address == os.environ.get(addresses.RAY)
    given: dict[str, Any] = {"py_executable": worker_forks.command()} if own else {"env_vars": _worker_environment()}
    try:
        ray.init(address=address, namespace="prefect", runtime_env=given, **_QUIET)
    except (RuntimeError, ConnectionError) as error:  # another version, no node of the cluster here, another token
        if own:
            raise Passing(f"Ray died as it was joined ({address}); run it again") from None
        raise ValueError(
            f"compute.address={address}: could not be joined: {str(error).strip().splitlines()[0]}; this machine must "
            "be a node of the cluster, with the same Python and Ray (docs/cluster.md)"
        ) from None
    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    _VITAL[:] = [(host, int(port)), (node["NodeManagerAddress"], node["NodeManagerPort"])]
    if not own:
        collector.open_office(here)


def disconnect() -> None:
    """Leave the Ray that this process has joined."""
    import ray

    ray.shutdown()


def num_cpus(compute: Compute) -> int:
    """Cores of the local Ray, or of the cluster that this process has joined."""
    if compute.backend == "local":
        return compute.local_cpus()
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def check_alive() -> None:
    """Passing if the Ray that this process has joined has died: asking it anything would take a minute."""
    for host, port in _VITAL:
        try:
            _reach(host, port)
        except OSError:
            raise Passing(
                f"Ray died (nothing answers at {host}:{port}); finished units are kept, run it again to go on from "
                "there"
            ) from None


def _reach(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=5).close()


def _worker_environment() -> dict[str, str]:
    told = {name: value for name, value in os.environ.items() if name.startswith(_TOLD) and name not in _NOT_TOLD}
    # Before what the node itself has: a folder that is not there does no harm.
    paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), "${PYTHONPATH}"]))
    return told | {"PYTHONPATH": paths, collector.OFFICE: collector.new_name()}
