"""A Ray of two cores for a file of tests, and the actors that live in it."""

import os
from pathlib import Path

import psutil
import pytest

from flows.runtime import processes


@pytest.fixture(scope="module")
def cluster():
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        yield
        ray.shutdown()


@pytest.fixture
def living(cluster):
    """The processes of the actors of a class, by its name."""

    def found(name):
        every = psutil.Process().children(recursive=True)
        return [each for each in every if "".join(processes.words(each)[:1]).startswith(f"ray::{name}")]

    return found
