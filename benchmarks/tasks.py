"""Calls of one function, side by side on a Ray of their own, for benchmarks that train more than they measure."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def side_by_side(function: Callable[..., None], calls: Sequence[Sequence[Any]], workers: int, what: str) -> None:
    """`function(*each)` for each of `calls`, `workers` at a time, with a bar called `what`; raises what one raises."""
    import ray
    from rich.progress import track

    if not calls:
        return
    ours = {"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}}
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, runtime_env=ours)
    task = ray.remote(num_cpus=1, max_retries=0)(function)
    running = [task.remote(*each) for each in calls]
    for _ in track(range(len(calls)), description=what):
        done, running = ray.wait(running)
        ray.get(done)
    ray.shutdown()
