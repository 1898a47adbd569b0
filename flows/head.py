"""The local Ray's head: a process that starts it, says where it is, and takes it down when it ends itself.

python -m flows.head <cpus> <file for the address>
"""

import signal
import sys
import threading
from pathlib import Path

from flows.warmth import request_workers
from stages.io.artefacts import write_json


def main(num_cpus: int, state: Path) -> None:
    """Start, announce, wait for SIGTERM."""
    import ray

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    context = ray.init(
        num_cpus=num_cpus, include_dashboard=False, log_to_driver=False, logging_level="error", namespace="prefect"
    )
    write_json(state, {"address": context.address_info["gcs_address"]})
    request_workers(1)
    stop.wait()
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
