"""What holds for every test."""

import os
from pathlib import Path

import pytest

# Tests are many small computations beside each other, on few cores: with more threads, most of the processors' time
# goes to threads that spin, waiting for one that another test keeps from running. Before torch is first imported.
os.environ["OMP_NUM_THREADS"] = "1"

HERE = Path(__file__).parent
LONG = [
    "flows/pipeline/test_run.py",
    "flows/workers/test_checks.py",
    "flows/deployments/test_flows.py",
    "flows/project/test_storage.py",
    "flows/pipeline/test_chaos.py",
    "deploy",
    "flows/workers/test_gang.py",
]
"""What takes minutes, the longest first: begun last, one of them would run on alone."""


def _together(item: pytest.Item) -> str:
    """The file or folder whose tests share servers, and so a process."""
    place = item.path.relative_to(HERE)
    return "deploy" if place.is_relative_to("deploy") else place.as_posix()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """An order, and groups for xdist's loadgroup."""
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(_together(item), len(LONG)))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_together(item)))
