"""Warm workers: the local Ray's, started and with torch imported before a stage needs them.

Plain tasks that import libraries: Ray keeps the workers that they ran in for the later tasks of the same driver. Left
alone, it starts workers when the tasks already wait.
"""

import gc
import importlib
import os
from typing import Any

from flows.runtime import addresses

_SLOW = (
    "torch",
    "prefect.task_engine",
    "safetensors.torch",
    # What stages.models imports as soon as it builds or reads a network.
    "diffusers.models.transformers.transformer_sd3",
    "transformers.models.clip.modeling_clip",
)
_PATIENCE_S = 60.0
_warming: list[Any] = []


def start(count: int) -> None:
    """Have `count` workers of the local Ray get warm, each on a core; of any other Ray, none."""
    import ray

    if ray.get_runtime_context().gcs_address != os.environ.get(addresses.RAY):
        return
    task = ray.remote(num_cpus=1, max_retries=0)(_import)
    _warming[:] = [task.remote() for _ in range(count)]


def wait() -> None:
    """Until one is warm, or a minute has passed: for a task that takes no core Ray would start one more, and cold."""
    if _warming:
        import ray

        ray.wait(list(_warming), num_returns=1, timeout=_PATIENCE_S)


def _import() -> None:
    """Without the collector, which would walk all that is imported again and again, this takes a fifth less."""
    gc.disable()
    for name in _SLOW:
        importlib.import_module(name)
    gc.enable()
    gc.freeze()
