"""`fewstep work`: a Prefect worker for this project, with all that it needs on the server."""

import argparse
import os
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where, and with how much."""
    parser.add_argument("--prefect-port", type=int, default=4200, help="of the server, if none runs (4200)")
    parser.add_argument("--gpus", type=int, help="slots of the GPU limit (as many as nvidia-smi lists)")


def main(parsed: argparse.Namespace) -> int:
    """Use the server in PREFECT_API_URL, or start one; then the pool, limit, watch, deployments and the worker."""
    from flows.project import parameters
    from flows.project.resources import Compute
    from flows.servers import local
    from flows.workers import gpu_limit

    if parsed.gpus is not None and parsed.gpus < 0:
        raise ValueError(f"--gpus {parsed.gpus}: a number of GPUs, 0 or more")
    resources = Compute.of(parameters.read())
    there = []
    if not os.environ.get("PREFECT_API_URL"):
        found, started = local.start(["prefect"], resources, ports={"prefect": parsed.prefect_port}, leashed=False)
        there += [*found, *started]
        os.environ["PREFECT_API_URL"] = there[0].address + "/api"
    os.environ["FEWSTEP_ROOT"] = str(Path.cwd())

    from flows.deployments import setup  # imports Prefect, whose settings must be there
    from flows.tracking.tracker import Tracker

    num_gpus = gpu_limit.count() if parsed.gpus is None else parsed.gpus
    setup.prepare(num_gpus)
    setup.deploy()
    Tracker().send_waiting()
    found, started = local.start(["worker"], resources, ports={}, leashed=False)
    there += [*found, *started]
    for service in there:
        print(f"{service.name:8} {service.address}  (process {service.pid}, log .fewstep/logs/{service.name}.log)")
    print(f"deployments: {there[0].address}/deployments; limit {setup.LIMIT}: {num_gpus or 'none, no GPUs'}")
    print("stop with `fewstep down`")
    return 0
