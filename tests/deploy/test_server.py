"""The team's servers: PostgreSQL under Prefect and MLflow, files on S3, and many writers."""

import os
import urllib.error
import urllib.request

import pytest
import yaml

from flows.runtime import errors, processes
from tests.deploy.team import SECRET, SERVER, begin_writer, end, end_writer, objects
from tests.deploy.writer import STEPS, WRITERS
from tests.flows.clone import Clone, ask
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


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
    of_runs = runs.replace("run_uuid", "destination_id")
    linked = team.query(f"SELECT count(*) FROM inputs WHERE source_type = 'DATASET' AND {of_runs}")
    assert linked == [(WRITERS,)]
    versions = team.query("SELECT version, run_id FROM model_versions WHERE name = 'distill-tdm1' ORDER BY version")
    assert [version for version, run in versions if run in written] == list(range(1, WRITERS + 1))
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
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
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
    said = [log.read_text(errors="replace") for log in logs] + [" ".join(processes.words(process)) for process in tree]
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
    given = {"MLFLOW_TRACKING_URI": team.mlflow, "PREFECT_API_URL": f"{team.prefect}/api"}
    monkeypatch.setattr(clone, "given", given)
    files = [clone.root / ".fewstep/prefect/prefect.db", clone.root / "mlruns/mlflow.db"]
    own = [file.read_bytes() for file in files]
    up = clone.fewstep("up")
    try:
        assert up.returncode == 0, up.stderr
        assert f"{team.mlflow}  (MLFLOW_TRACKING_URI; not started here)" in up.stdout
        done = clone.fewstep("stage", "dataset")
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        stopped = clone.down()
    assert stopped == {"driver", "ray"}
    assert [file.read_bytes() for file in files] == own
    found = team.query("SELECT run_uuid, status FROM runs WHERE name = 'dataset'")
    assert [status for _, status in found] == ["FINISHED"]
    record = yaml.safe_load((clone.root / "data/lineage/dataset.json").read_text())
    assert record["mlflow"]["run"] == found[0][0]
    flow_run = ask(f"{team.prefect}/api/flow_runs/{record['prefect']['flow_run']}")
    assert flow_run["state_type"] == "COMPLETED"


def test_a_server_that_is_down_is_one_clear_message(clone, monkeypatch):
    for name, path in (("MLFLOW_TRACKING_URI", ""), ("PREFECT_API_URL", "/api")):
        with monkeypatch.context() as patch:
            patch.setattr(clone, "given", {name: f"http://me:hidden@127.0.0.1:9{path}"})
            done = clone.fewstep("stage", "verifier")
        assert done.returncode == errors.PASSING
        assert done.stderr.startswith(f"error: {name}=http://127.0.0.1:9{path}: no server answers there")
        assert "hidden" not in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_server_that_dies_under_a_run_loses_nothing_of_it(team, written, tmp_path):
    gate, where = tmp_path / "gate", {"MLFLOW_TRACKING_URI": team.mlflow, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    process = begin_writer(tmp_path, 5, gate, **where)
    run = process.stdout.readline().strip()
    end(team.processes["mlflow"])
    gate.touch()
    _, err = process.communicate(timeout=PATIENCE_S)
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
