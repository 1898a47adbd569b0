"""The local Ray's head: a process that starts it, says where it is, and takes it down when it ends itself.

When one of Ray's own processes dies it strikes itself from the list of services, since nobody can use such a Ray, and
ends, non-zero: at once without a GCS, after a while without a raylet, so that drivers can still end in order.

python -m flows.servers.ray_head <cpus> <file for the address>
"""

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from flows.runtime import processes, worker_forks
from flows.runtime.environment import HOME
from flows.runtime.errors import PASSING
from stages.io.artefacts import write_json

_LOOK_S = 0.5
GRACE_S = 45.0
"""Without its GCS, Ray ends a driver on the spot, which then cannot say or settle anything."""
_VITAL = ("gcs_server", "raylet")


def main(num_cpus: int, state: Path) -> int:
    """Start, announce, wait for SIGTERM (0) or for Ray's death (1). PASSING if Ray was too slow for itself."""
    stop = threading.Event()
    _heed(stop)
    with worker_forks.begun(HOME / "logs" / "worker_forks.log"):
        return _run(num_cpus, state, stop)


def _heed(stop: threading.Event) -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())


def _run(num_cpus: int, state: Path, stop: threading.Event) -> int:
    import ray

    try:
        context: Any = ray.init(
            address="local",  # never one that RAY_ADDRESS or a file of another Ray's on this machine names
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            namespace="prefect",
        )
    except Exception:  # noqa: BLE001 (Ray raises bare ones where a process of its own missed a deadline)
        traceback.print_exc()
        print("Ray's processes did not come up in the time that it gives them; is the machine busy?", file=sys.stderr)  # noqa: T201
        processes.kill(processes.descendants(os.getpid()))
        sys.stderr.flush()
        os._exit(PASSING)  # ray.shutdown would wait for the dead
    _heed(stop)  # Ray has put its own in their place
    vital = _vital()
    # A thread, since the main one may wait for the very processes that are dead.
    threading.Thread(target=_watch, args=(vital, state, stop), daemon=True).start()
    write_json(state, {"address": context.address_info["gcs_address"]})
    stop.wait()
    started = processes.descendants(os.getpid())
    ray.shutdown()
    processes.kill(started)  # Ray's agents look whether it lives now and then, and Ray Train's actor outlives trainings
    return 0


def _vital() -> dict[str, psutil.Process]:
    named = {"".join(processes.words(child)[:1]): child for child in psutil.Process().children()}
    found = {Path(program).name: child for program, child in named.items() if Path(program).name in _VITAL}
    if len(found) < len(_VITAL):
        raise RuntimeError(f"of {', '.join(_VITAL)} only {len(found)} run")
    return found


def _watch(vital: Mapping[str, psutil.Process], state: Path, stop: threading.Event) -> None:
    """End this process and all that it started after the first death among `vital`."""
    while not stop.wait(_LOOK_S):
        dead = [name for name, process in vital.items() if not processes.lives(process.pid, process.create_time())]
        if dead:
            state.unlink(missing_ok=True)
            state.with_name("ray.json").unlink(missing_ok=True)  # what `service.running` reads
            print(f"Ray's {dead[0]} died; this head ends", file=sys.stderr, flush=True)  # noqa: T201
            if "gcs_server" not in dead:
                stop.wait(GRACE_S)
            processes.kill(processes.descendants(os.getpid()))  # who sees this head gone may take its ports and memory
            os._exit(1)  # ray.shutdown would wait for the dead


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))
