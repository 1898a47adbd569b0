"""A team's servers, and what eight writers at once left on them: for all that the tests here ask."""

import pytest

from tests.deploy.team import Team, begin_writer, end_writer
from tests.deploy.writer import WRITERS
from tests.s3 import server


@pytest.fixture(scope="session")
def s3():
    """The endpoint of a server with an empty bucket `team`."""
    with server("team") as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def team(tmp_path_factory, s3):
    made = Team(tmp_path_factory.mktemp("team"), s3)
    try:
        made.start_postgres()
        made.start_servers()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def written(team, tmp_path_factory):
    """The runs of eight processes that wrote at once into an empty database; they had no S3 credentials."""
    folders = [tmp_path_factory.mktemp(f"writer{number}") for number in range(WRITERS)]
    processes = [begin_writer(f, n, MLFLOW_TRACKING_URI=team.mlflow) for n, f in enumerate(folders)]
    try:
        return [end_writer(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
