"""`fewstep up`: servers that stay."""

import argparse
import os
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Ports, and what is not wanted."""
    parser.add_argument("--prefect-port", type=int, default=4200)
    parser.add_argument("--mlflow-port", type=int, default=5000)
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=("driver", "mlflow", "prefect", "ray"),
        help="do not start this one",
    )


def main(parsed: argparse.Namespace) -> int:
    """Start what does not run, and print the addresses."""
    from flows.cli.commands import compose
    from flows.pipeline import client
    from flows.project import parameters, storage
    from flows.project.resources import Compute
    from flows.runtime import addresses
    from flows.servers import local, service
    from flows.tracking import backend

    if not Path("params.yaml").is_file():
        compose.write([])
    content = parameters.read()
    storage.settle(content)
    resources = Compute.of(content)
    names = ["ray"] if resources.backend == "local" else []
    for name, variable in (("mlflow", addresses.MLFLOW), ("prefect", "PREFECT_API_URL")):
        if os.environ.get(variable):  # the team's
            print(f"{name:8} {addresses.shown(os.environ[variable])}  ({variable}; not started here)")
        else:
            names.insert(0, name)
    names = [name for name in names if name not in parsed.without]
    if "mlflow" in names:
        backend.make_tables()  # the server would make them too, in steps that a kill may come between
    ports = {"prefect": parsed.prefect_port, "mlflow": parsed.mlflow_port}
    found, started = local.start(names, resources, ports=ports, leashed=False)
    for each in (*found, *started):
        print(f"{each.name:8} {each.address}  (process {each.pid}, log .fewstep/logs/{each.name}.log)")
    if "driver" not in parsed.without and service.running("driver") is None:
        client.start(None)
        print(f"driver   gets ready  (log {client.LOG}); it runs what is asked for, and begins at once")
    print("stop them with `fewstep down`")
    return 0
