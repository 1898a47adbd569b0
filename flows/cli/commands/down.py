"""`fewstep down`: stop what `up` started."""

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing to choose."""
    del parser


def main(_parsed: argparse.Namespace) -> int:
    """Stop each server that runs."""
    from flows.servers import service

    found = [each for name in service.NAMES if (each := service.running(name) or service.left(name))]
    for each in found:
        each.stop()
        print(f"{each.name} stopped")
    if not found:
        print("nothing runs")
    return 0
