"""What several files of tests share."""

import pytest

from tests.flows.clone import Clone


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A clone with servers, on the smoke experiment. Who uses it composes what it asks for, and mends what it spoils.

    tests/conftest.py keeps the files that use it together, in a process and in their order.
    """
    made = Clone(tmp_path_factory.mktemp("project"))
    assert made.fewstep("compose", "experiment=smoke").returncode == 0
    made.up()
    yield made
    assert {"prefect", "mlflow", "ray"} <= made.down()
