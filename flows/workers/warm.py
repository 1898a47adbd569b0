"""Warm workers: the local Ray's, started and with torch imported before a stage needs them.

Plain tasks that import libraries: Ray keeps the workers that they ran in for the later tasks of the same driver. Left
alone, it starts workers when the tasks already wait.
"""

import os
from typing import Any

from flows.runtime import addresses, worker_forks

_PATIENCE_S = 60.0
_warming: list[Any] = []


def start(count: int) -> None:
    """Have `count` workers of the local Ray get warm, each on a core; of any other Ray, none."""
    import ray

    if ray.get_runtime_context().gcs_address != os.environ.get(addresses.RAY):
        return
    task = ray.remote(num_cpus=1, max_retries=0)(worker_forks.import_all)
    _warming[:] = [task.remote() for _ in range(count)]


def wait() -> None:
    """Until one is warm, or a minute has passed: for a task that takes no core Ray would start one more, and cold."""
    if _warming:
        import ray

        ray.wait(list(_warming), num_returns=1, timeout=_PATIENCE_S)
