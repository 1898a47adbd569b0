"""What several files of tests share."""

import pytest

from tests.flows.clone import Clone

NOWHERE = "127.0.0.1:9"
_NAMES = ("http_proxy", "https_proxy", "all_proxy")
ELSEWHERE = dict.fromkeys([*_NAMES, *map(str.upper, _NAMES)], f"http://{NOWHERE}")
ELSEWHERE |= {"no_proxy": "", "NO_PROXY": "", "RAY_ADDRESS": NOWHERE}
"""Of a company's machine: proxies, by which nothing of ours may be asked, and a Ray that is not ours."""


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A clone with servers, on the smoke experiment. Who uses it composes what it asks for, and mends what it spoils.

    tests/conftest.py keeps the files that use it together, in a process and in their order. All its processes have
    ELSEWHERE in their environment, and reach their servers all the same.
    """
    made = Clone(tmp_path_factory.mktemp("project"))
    made.given |= ELSEWHERE
    assert made.fewstep("compose", "experiment=smoke").returncode == 0
    made.up()
    yield made
    assert {"prefect", "mlflow", "ray"} <= made.down()
