"""Seconds of an empty task, Prefect's through Ray and Ray's own, in the project's folder: called by scale.py."""

import json
import os
import sys
import time
from pathlib import Path

TASKS, ROUNDS = 40, 5


def main() -> None:
    """Print {kind: {a_task_s, low_s, high_s}} as JSON."""
    sys.path.insert(0, os.getcwd())
    from flows.runtime import environment

    environment.settle(environment.find_root())
    from flows.cli.commands import compose
    from flows.project.resources import Compute
    from flows.servers import local
    from flows.workers import connection
    from stages.io import params

    compose.write(["experiment=smoke"])
    resources = Compute.of(params.read(Path("params.yaml")))
    with local.session(resources) as addresses:
        connection.connect(addresses["ray"])
        import ray

        found = {"ray": _ray(), "prefect_through_ray": _prefect()}
        ray.shutdown()
    print(json.dumps({"tasks": TASKS, "rounds": ROUNDS} | found))


def _spread(seconds: list[float]) -> dict[str, float]:
    each = sorted(s / TASKS for s in seconds[1:])  # the first round starts workers
    return {"a_task_s": each[len(each) // 2], "low_s": each[0], "high_s": each[-1], "first_round_s": seconds[0]}


def _ray() -> dict[str, float]:
    import ray

    nothing = ray.remote(num_cpus=1)(lambda number: number)
    found = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        ray.get([nothing.remote(number) for number in range(TASKS)])
        found.append(time.perf_counter() - start)
    return _spread(found)


def _prefect() -> dict[str, float]:
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect_ray import RayTaskRunner

    @task(cache_policy=NO_CACHE, persist_result=False)
    def nothing(number: int) -> int:
        return number

    found = []

    @flow(task_runner=RayTaskRunner(), persist_result=False)  # pyright: ignore[reportCallIssue] (its stub)
    def rounds() -> None:
        for _ in range(ROUNDS + 1):
            start = time.perf_counter()
            for future in [nothing.submit(number) for number in range(TASKS)]:
                future.result()
            found.append(time.perf_counter() - start)

    rounds()
    return _spread(found)


if __name__ == "__main__":
    main()
