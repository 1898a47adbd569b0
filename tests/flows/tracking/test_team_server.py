"""The team's servers: PostgreSQL under Prefect and MLflow, files on S3, many writers, the way there from a laptop."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
import yaml

from tests.flows.clone import Clone, ask, give_databases
from tests.flows.team import ROOT, SECRET, SERVER, Team, end
from tests.flows.writer import STEPS
from tests.s3 import server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]
WRITERS = 8


@pytest.fixture(scope="module")
def s3():
    """The endpoint of a server with an empty bucket `team`."""
    with server("team") as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def team(tmp_path_factory, s3):
    made = Team(tmp_path_factory.mktemp("team"), s3)
    try:
        made.start_postgres()
        made.start_servers()
        yield made
    finally:
        made.stop()


def objects(s3, prefix):
    import boto3

    pages = boto3.client("s3", endpoint_url=s3).get_paginator("list_objects_v2").paginate(Bucket="team", Prefix=prefix)
    return [each["Key"] for page in pages for each in page.get("Contents", [])]


def begin_writer(folder, *words, **settings):
    ours = ("PREFECT_", "FEWSTEP_", "RAY_", "MLFLOW_", "PG", "AWS_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | settings
    command = [sys.executable, "-m", "tests.flows.writer", str(folder), *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )


def end_writer(process):
    """The run's id, if it wrote one."""
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    return out.strip()


@pytest.fixture(scope="module")
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


def test_eight_writers_at_once_lose_nothing(team, written, s3):
    runs = "run_uuid in ({})".format(",".join(f"'{run}'" for run in written))
    assert team.query(f"SELECT status, count(*) FROM runs WHERE {runs} GROUP BY 1") == [("FINISHED", WRITERS)]
    for name in ("loss", "grad_norm"):
        counted = team.query(f"SELECT run_uuid, count(*) FROM metrics WHERE {runs} AND key = '{name}' GROUP BY 1")
        assert sorted(counted) == sorted((run, STEPS) for run in written)
    assert team.query(f"SELECT count(*) FROM metrics WHERE {runs}") == [(WRITERS * (2 * STEPS + 3),)]
    sums = team.query(f"SELECT run_uuid, sum(value) FROM metrics WHERE {runs} AND key = 'loss' GROUP BY 1")
    expected = {run: sum(step / 7 + number for step in range(STEPS)) for number, run in enumerate(written)}
    assert dict(sums) == pytest.approx(expected)
    assert team.query(f"SELECT count(*) FROM params WHERE {runs}") == [(WRITERS * 5,)]
    assert team.query(f"SELECT count(*) FROM tags WHERE {runs} AND key = 'writer'") == [(WRITERS,)]
    linked = team.query("SELECT count(*) FROM inputs WHERE source_type = 'DATASET' AND destination_type = 'RUN'")
    assert linked == [(WRITERS,)]
    versions = team.query("SELECT version, run_id FROM model_versions WHERE name = 'distill-tdm1' ORDER BY version")
    assert [version for version, _ in versions] == list(range(1, WRITERS + 1))
    assert {run for _, run in versions} == set(written)
    assert team.query("SELECT count(*) FROM experiments WHERE name = 'fewstep'") == [(1,)]
    for run in written:
        names = {key.rpartition("/")[2] for key in objects(s3, "mlflow/") if run in key}
        assert {"report.html", "distill@tdm1.json"} <= names
        assert any(name.endswith(".png") for name in names)


def test_the_registry_leads_back_to_the_artefact(team, written):
    from mlflow import MlflowClient

    client = MlflowClient(team.mlflow, registry_uri=team.mlflow)
    version = client.get_model_version_by_alias("distill-tdm1", "candidate")
    assert version.run_id in written
    assert version.tags["artefact"] == "data/distill/tdm1"
    assert version.tags["dvc.digest"].endswith(".dir")
    assert client.get_run(version.run_id).outputs.model_outputs


def ask_as(team, host):
    request = urllib.request.Request(f"{team.mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default")
    request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def test_mlflow_knows_its_name_with_and_without_port_and_no_other(team):
    port = team.ports["mlflow"]
    known = ("mlflow.team.example", f"mlflow.team.example:{port}", f"127.0.0.1:{port}", "localhost")
    assert [ask_as(team, host) for host in known] == [200] * 4
    assert [ask_as(team, host) for host in ("evil.example", "mlflow.team.example:1")] == [403, 403]


def test_no_password_in_a_log_or_a_process_list(team):
    import psutil

    logs = [team.folder / f"{name}.log" for name in ("prefect", "mlflow", "postgres")]
    tree = [psutil.Process(p.pid) for p in team.processes.values()]
    tree += [child for process in tree for child in process.children(recursive=True)]
    said = [log.read_text(errors="replace") for log in logs] + [" ".join(process.cmdline()) for process in tree]
    assert not any(SECRET in text or "p%40ss" in text for text in said)


def test_a_script_without_what_it_needs_says_so(team):
    for settings, words in (
        ({"PGPASSWORD": ""}, "PGPASSWORD is not set"),
        ({"MLFLOW_ARTIFACTS_DESTINATION": ""}, "MLFLOW_ARTIFACTS_DESTINATION is not set"),
        ({"FEWSTEP_MLFLOW_HOSTS": "a.example:5000"}, "name the host alone"),
    ):
        done = team.script("mlflow.sh", **settings)
        assert done.returncode == 2
        assert words in done.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    made = Clone(tmp_path_factory.mktemp("clone"))
    composed = made.fewstep("compose", "experiment=smoke")
    assert composed.returncode == 0, composed.stderr
    return made


def test_a_stage_runs_against_the_teams_servers_and_starts_none(team, clone, monkeypatch):
    environment = clone._environment() | {"MLFLOW_TRACKING_URI": team.mlflow, "PREFECT_API_URL": f"{team.prefect}/api"}
    monkeypatch.setattr(clone, "_environment", lambda: environment)
    files = [clone.root / ".fewstep/prefect/prefect.db", clone.root / "mlruns/mlflow.db"]
    own = [file.read_bytes() for file in files]
    up = clone.fewstep("up")
    try:
        assert up.returncode == 0, up.stderr
        assert f"{team.mlflow}  (MLFLOW_TRACKING_URI; not started here)" in up.stdout
        done = clone.fewstep("stage", "dataset")
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        stopped = clone.fewstep("down").stdout
    assert stopped.split() == ["ray", "stopped"]
    assert [file.read_bytes() for file in files] == own
    found = team.query("SELECT run_uuid, status FROM runs WHERE name = 'dataset'")
    assert [status for _, status in found] == ["FINISHED"]
    record = yaml.safe_load((clone.root / "data/lineage/dataset.json").read_text())
    assert record["mlflow"]["run"] == found[0][0]
    with urllib.request.urlopen(f"{team.prefect}/api/flow_runs/{record['prefect']['flow_run']}", timeout=10) as reply:
        assert yaml.safe_load(reply.read())["state_type"] == "COMPLETED"


def test_a_server_that_is_down_is_one_clear_message(clone, monkeypatch):
    before = clone._environment()
    for name, path in (("MLFLOW_TRACKING_URI", ""), ("PREFECT_API_URL", "/api")):
        environment = before | {name: f"http://me:hidden@127.0.0.1:9{path}"}
        with monkeypatch.context() as patch:
            patch.setattr(clone, "_environment", lambda given=environment: given)
            done = clone.fewstep("stage", "verifier", timeout=100)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {name}=http://127.0.0.1:9{path}: no server answers there")
        assert "hidden" not in done.stderr
        assert len(done.stderr.splitlines()) == 1


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
    version = client.get_model_version("distill-tdm1", str(WRITERS + 1))
    assert version.run_id == run
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


HISTORY = """
import time
from prefect import flow, get_client, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
@task
def unit():
    get_run_logger().info("of the task")
@flow(name="stage")
def stage():
    unit()
@flow(name="pipeline")
def pipeline():
    get_run_logger().info("of the flow")
    create_markdown_artifact("| results |", key="results")
    stage()
@flow(name="bad", retries=0)
def bad():
    raise ValueError("boom")
pipeline()
bad(return_state=True)
with get_client(sync_client=True) as client:  # task runs are written down a little later than flow runs
    end = time.monotonic() + 60
    while time.monotonic() < end:
        states = [client.read_task_run_states(run.id) for run in client.read_task_runs()]
        if states and all(each and each[-1].is_completed() for each in states):
            break
        time.sleep(0.2)
"""


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """A project whose Prefect has the history of three flow runs: one within another, and one that failed."""
    folder = tmp_path_factory.mktemp("history")
    (folder / ".fewstep").mkdir()
    give_databases(folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(folder / ".fewstep/prefect"), "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true"}
    done = subprocess.run(
        [sys.executable, "-c", HISTORY], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / ".fewstep/prefect/prefect.db"


def test_a_laptops_flow_runs_move_to_the_team_once_and_whole(team, history):
    runs = f"{team.prefect}/api/flow_runs/filter"
    before = {run["id"] for run in ask(runs, {})}
    tried = team.script("migrate_prefect.py", str(history), "--dry-run")
    assert "3 flow runs would be copied; 0 were there already" in tried.stdout, tried.stderr
    assert {run["id"] for run in ask(runs, {})} == before

    done = team.script("migrate_prefect.py", str(history))
    assert done.returncode == 0, done.stderr
    moved = {run["name"]: run for run in ask(runs, {}) if run["id"] not in before}
    flows = {flow["id"]: flow["name"] for flow in ask(f"{team.prefect}/api/flows/filter", {})}
    by_flow = {flows[run["flow_id"]]: run for run in moved.values()}
    assert {name: run["state"]["type"] for name, run in by_flow.items()} == {
        "pipeline": "COMPLETED",
        "stage": "COMPLETED",
        "bad": "FAILED",
    }
    assert "boom" in by_flow["bad"]["state"]["message"]
    assert by_flow["pipeline"]["total_run_time"] > by_flow["stage"]["total_run_time"] > 0
    tasks = {run["id"]: run for run in ask(f"{team.prefect}/api/task_runs/filter", {})}
    assert tasks[by_flow["stage"]["parent_task_run_id"]]["flow_run_id"] == by_flow["pipeline"]["id"]
    (unit,) = [run for run in tasks.values() if run["flow_run_id"] == by_flow["stage"]["id"]]
    history_of_states = ask(f"{team.prefect}/api/task_run_states/?task_run_id={unit['id']}")
    assert [state["type"] for state in history_of_states][-1] == "COMPLETED"
    of_them = {"flow_run_id": {"any_": [run["id"] for run in moved.values()]}}
    said = [line["message"] for line in ask(f"{team.prefect}/api/logs/filter", {"logs": of_them})]
    assert {"of the flow", "of the task"} <= set(said)
    (artifact,) = ask(f"{team.prefect}/api/artifacts/filter", {"artifacts": of_them | {"key": {"any_": ["results"]}}})
    assert (artifact["key"], artifact["data"]) == ("results", "| results |")

    again = team.script("migrate_prefect.py", str(history))
    assert "0 flow runs copied, every row counted; 3 were there already" in again.stdout, again.stderr


def test_a_history_that_cannot_be_moved_says_why(team, tmp_path, history):
    missing = team.script("migrate_prefect.py", str(tmp_path / "none.db"))
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "no such file; it is .fewstep/prefect/prefect.db" in missing.stderr
    other = tmp_path / "other.db"
    shutil.copy(history, other)
    with contextlib.closing(sqlite3.connect(other)) as link:
        link.execute("ALTER TABLE log RENAME COLUMN message TO words")
        link.commit()
    refused = team.script("migrate_prefect.py", str(other))
    assert refused.returncode == 1
    assert "the laptop's database has no log.message: its Prefect is another version" in refused.stderr


def test_a_server_that_dies_under_a_run_loses_nothing_of_it(team, written, tmp_path):
    gate, where = tmp_path / "gate", {"MLFLOW_TRACKING_URI": team.mlflow, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    process = begin_writer(tmp_path, 5, gate, **where)
    run = process.stdout.readline().strip()
    end(team.processes["mlflow"])
    gate.touch()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Max retries exceeded" in err
    assert [file.stem for file in (tmp_path / ".fewstep/unsent").iterdir()] == [run]
    team.begin("mlflow")
    team.await_server("mlflow")
    end_writer(begin_writer(tmp_path, "again", MLFLOW_TRACKING_URI=team.mlflow))
    assert team.query(f"SELECT status FROM runs WHERE run_uuid = '{run}'") == [("FINISHED",)]
    counted = team.query(f"SELECT count(*) FROM metrics WHERE run_uuid = '{run}'")
    assert counted == [(2 * STEPS + 3,)]
    assert not list((tmp_path / ".fewstep/unsent").iterdir())


def test_the_compose_file_says_what_the_scripts_say():
    compose = yaml.safe_load((SERVER / "compose.yaml").read_text())
    assert set(compose["services"]) == {"postgres", "databases", "prefect", "mlflow"}
    for name, service in compose["services"].items():
        assert all(port.startswith("${FEWSTEP_BIND:-127.0.0.1}:") for port in service.get("ports", []))
        assert name == "databases" or service["healthcheck"]
        for needed in service.get("depends_on", {}):
            assert needed in compose["services"]
    passwords = [s["environment"].get("PGPASSWORD", "") for s in compose["services"].values()]
    assert all(text.startswith("${PGPASSWORD:?") for text in passwords if text)
    for script in ("databases.sh", "prefect.sh", "mlflow.sh"):
        assert os.access(SERVER / script, os.X_OK)
