"""A Ray of two cores for files of tests, and the actors that live in it."""

import os
from pathlib import Path

import psutil
import pytest

from flows.runtime import processes, worker_forks


@pytest.fixture(scope="package")
def forks(tmp_path_factory):
    with worker_forks.begun(tmp_path_factory.mktemp("forks") / "log"):
        yield {"py_executable": worker_forks.command()}


@pytest.fixture(scope="package")
def cluster(forks):
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])))
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        ray.init(num_cpus=2, runtime_env=forks, **quiet)
        yield
        ray.shutdown()


@pytest.fixture
def living(cluster):
    """The processes of the actors of a class, by its name."""

    def found(name):
        every = psutil.Process().children(recursive=True)
        return [each for each in every if "".join(processes.words(each)[:1]).startswith(f"ray::{name}")]

    return found
