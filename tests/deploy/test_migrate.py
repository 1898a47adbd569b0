"""The way from a laptop's MLflow to the team's."""

import contextlib
import shutil
import sqlite3

import pytest

from tests.deploy.team import begin_writer, end_writer, objects
from tests.deploy.writer import STEPS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def laptop(tmp_path_factory):
    """A project whose sqlite store holds one finished run."""
    folder = tmp_path_factory.mktemp("laptop")
    return folder, end_writer(begin_writer(folder, 99))


def counts(team):
    tables = ("runs", "params", "tags", "metrics", "latest_metrics", "datasets", "inputs", "logged_models")
    tables += ("model_versions", "model_version_tags", "experiments")
    return {table: team.query(f"SELECT count(*) FROM {table}")[0][0] for table in tables}


def test_a_laptops_runs_move_to_the_team_once_and_whole(team, written, laptop, s3):
    from mlflow import MlflowClient

    folder, run = laptop
    before, store = counts(team), str(folder / "mlruns/mlflow.db")
    tried = team.script("migrate.py", store, "--dry-run")
    assert tried.returncode == 0, tried.stderr
    assert "1 runs would be copied; 0 were there already" in tried.stdout
    assert counts(team) == before
    assert not [key for key in objects(s3, "mlflow/") if run in key]

    done = team.script("migrate.py", store)
    assert done.returncode == 0, done.stderr
    after = counts(team)
    assert after["runs"] - before["runs"] == 1
    assert after["metrics"] - before["metrics"] == 2 * STEPS + 3
    assert after["params"] - before["params"] == 5
    assert after["experiments"] == before["experiments"]
    client = MlflowClient(team.mlflow, registry_uri=team.mlflow)
    old = MlflowClient(f"sqlite:///{store}").get_run(run)
    new = client.get_run(run)
    assert new.data.metrics == old.data.metrics
    assert new.data.params == old.data.params
    assert new.inputs.dataset_inputs[0].dataset.digest == old.inputs.dataset_inputs[0].dataset.digest
    names = sorted(item.path for item in client.list_artifacts(run))
    assert names == sorted(item.path for item in MlflowClient(f"sqlite:///{store}").list_artifacts(run))
    fetched = client.download_artifacts(run, "report.html", str(folder))
    with open(fetched) as stream:
        assert stream.read() == "<p>report 99"
    (version,) = client.search_model_versions(f"run_id = '{run}'")
    assert version.tags["artefact"] == "data/distill/tdm1"

    again = team.script("migrate.py", store)
    assert again.returncode == 0, again.stderr
    assert "0 runs copied, every count checked; 1 were there already" in again.stdout
    assert counts(team) == after
    fresh = client.create_run(new.info.experiment_id)  # the sequences go on
    client.delete_run(fresh.info.run_id)


def test_a_migration_that_cannot_be_says_why(team, tmp_path, laptop):
    missing = team.script("migrate.py", str(tmp_path / "none.db"))
    assert missing.returncode == 1
    assert "no such file" in missing.stderr
    other = tmp_path / "other.db"
    shutil.copy(laptop[0] / "mlruns/mlflow.db", other)
    with contextlib.closing(sqlite3.connect(other)) as link:
        link.execute("UPDATE alembic_version SET version_num = 'older'")
        link.commit()
    before = counts(team)
    refused = team.script("migrate.py", str(other))
    assert refused.returncode == 1
    assert "revision older" in refused.stderr
    assert counts(team) == before
