"""`fewstep down`: stop what `up` started."""

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing to choose."""
    del parser


def main(_parsed: argparse.Namespace) -> int:
    """Stop each server that runs."""
    from flows.servers import local

    found = [service for service in map(local.running, ("worker", "driver", "ray", "mlflow", "prefect")) if service]
    for service in found:
        service.stop()
        print(f"{service.name} stopped")
    if not found:
        print("nothing runs")
    return 0
