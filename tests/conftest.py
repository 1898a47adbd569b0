"""What holds for every test."""

import gc
import os

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Tests are many small computations beside each other, on few cores: with more threads, most of the processors' time
# goes to threads that spin, waiting for one that another test keeps from running. Before torch is first imported.
os.environ["OMP_NUM_THREADS"] = "1"
# A repository that a test makes with `dvc init` would start a process after each of DVC's commands, to send statistics.
os.environ["DVC_NO_ANALYTICS"] = "1"
# What is imported stays. To walk it again and again takes a fifth of the time of tests that copy networks.
gc.set_threshold(100_000, 50, 50)

SHARING = (
    "flows/pipeline/test_run.py",
    "flows/pipeline/test_checkpoint.py",
    "flows/workers/test_gang.py",
    "flows/project/test_replicates.py",
    "flows/pipeline/test_chaos.py",
)
"""Files of one project, in their order: the first counts what ran in it, and the last one kills its servers."""
OF_RAY = ("flows/workers/test_reward_workers.py", "flows/workers/test_encoders.py")
"""Files of one Ray."""
LONG = [
    *SHARING,
    "flows/workers/test_checks.py",
    "flows/deployments/test_flows.py",
    "flows/project/test_storage.py",
    "test_readme.py",
    "deploy",
    "test_presets.py",
    *OF_RAY,
]
"""What takes a minute and more, the longest first: begun last, one of them would run on alone."""
LAST = ("training/test_parallel.py", "training/test_parts.py")
"""Workers that wait for each other, a while at most: when little else is left that keeps them from running."""


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0].removeprefix("tests/")


def _together(nodeid: str) -> str:
    """The file or folder whose tests share servers, and so a process."""
    file = _file(nodeid)
    if file in SHARING:
        return "project"
    if file in OF_RAY:
        return "ray"
    return "deploy" if file.startswith("deploy/") else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """An order in which the end is not one process alone."""
    order = {name: place for place, name in enumerate(LONG)}

    def place(item: pytest.Item) -> int:
        file = _file(item.nodeid)
        return len(LONG) + 1 if file in LAST else order.get(file, order.get(_together(item.nodeid), len(LONG)))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """What is there before the first test stays too."""
    gc.collect()
    gc.freeze()


class _Scheduling(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return _together(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """What is to be together stays so."""
    return _Scheduling(config, log)
