"""Warm workers: the local Ray's, started and with torch imported before a stage needs them."""

import uuid

import psutil

from flows.runtime.environment import TICKETS
from flows.servers import local


def prestart(wanted: int) -> None:
    """See to it that the local Ray has `wanted` workers, busy ones included; elsewhere do nothing.

    Left alone, Ray starts them when the tasks already wait, and more than it then needs: four seconds or more of cold
    start, on the cores that should compute. This is Ray's own request to its raylet (node_manager.proto,
    PrestartWorkers): without a job id the workers serve any job. Where it is refused, stages are slower, not wrong.
    """
    import ray

    head = local.running("ray")
    if head is None or head.address != ray.get_runtime_context().gcs_address:
        return
    request_workers(wanted - _count(head.pid))


def request_workers(count: int) -> None:
    """Ask the node that this process is connected to for `count` more."""
    import grpc
    import ray
    from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc

    node = next((node for node in ray.nodes() if node["Alive"]), None)
    if node is None or count < 1:
        return
    TICKETS.mkdir(parents=True, exist_ok=True)
    for _ in range(count):
        (TICKETS / uuid.uuid4().hex).touch()
    request = node_manager_pb2.PrestartWorkersRequest(num_workers=count, keep_alive_duration_secs=600)
    request.runtime_env_info.SetInParent()
    with grpc.insecure_channel(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}") as channel:
        try:
            node_manager_pb2_grpc.NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=2)
        except grpc.RpcError:
            return


def _count(head: int) -> int:
    """Workers under process `head`, those still starting too; Ray's agents have titles like theirs."""
    count = 0
    for process in psutil.Process(head).children(recursive=True):
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        title = words[0].strip() if words else ""
        is_worker = title.startswith("ray::") and not title.endswith("Agent")
        count += is_worker or any(word.endswith("default_worker.py") for word in words[:4])
    return count
