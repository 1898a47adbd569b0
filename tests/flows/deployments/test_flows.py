"""Scheduled runs through a real Prefect server and worker, a bare git repository as origin and a real S3 server.

The tests run in order: a run that dies and a schedule, a refused run, a cancelled one, one that ends, and one on a
worker that has lost its cache; by then the dead one is found, and the schedule has runs.
"""

import os
import shutil
import subprocess
import sys
import urllib.error
from datetime import UTC, datetime, timedelta

import pytest

from flows.deployments import setup
from flows.deployments.child import of_run
from flows.runtime import processes
from tests import s3
from tests.flows.clone import ROOT, Clone, ask
from tests.ports import free_port
from tests.waiting import PATIENCE_S, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@pytest.fixture(scope="module")
def bucket():
    """An S3 server's address, with an empty bucket `team`; credentials come from the environment."""
    with s3.server("team") as endpoint:
        yield endpoint


class Team:
    """A worker's project, the team's git repository and the Prefect server."""

    def __init__(self, folder, bucket):
        self.worker, self.origin = Clone(folder / "worker"), folder / "origin.git"
        shutil.copy(ROOT / "prefect.yaml", self.worker.root)
        assert self.worker.fewstep("compose").returncode == 0
        self.worker.dvc("remote", "add", "-d", "team", "s3://team/fewstep")
        self.worker.dvc("remote", "modify", "team", "endpointurl", bucket)
        self.git("add", "-A")
        self.git("-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "shared by S3")
        subprocess.run(["git", "clone", "-q", "--bare", self.worker.root, self.origin], check=True)
        self.git("remote", "add", "origin", str(self.origin))
        self.port = free_port()
        self.worker.given["PREFECT_WORKER_QUERY_SECONDS"] = "1"
        up = self.worker.fewstep("work", "--prefect-port", str(self.port), "--gpus", "1")
        assert up.returncode == 0, up.stdout + up.stderr

    def git(self, *words):
        return subprocess.run(["git", *words], cwd=self.worker.root, check=True, capture_output=True, text=True).stdout

    def ask(self, path, content=None):
        return ask(f"http://127.0.0.1:{self.port}/api/{path}", content)

    def begin(self, **parameters):
        deployment = self.ask("deployments/name/stage/dataset")
        return self.ask(f"deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})["id"]

    def state(self, run):
        return self.ask(f"flow_runs/{run}")["state"]

    def end(self, run):
        wait_for(lambda: self.state(run)["type"] in FINAL)
        return self.state(run)

    def said(self, run):
        wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
        return "\n".join(line["message"] for line in self.ask("logs/filter", wanted))

    def children(self, run):
        return self.ask("flow_runs/filter", {"flow_runs": {"tags": {"all_": [f"parent:{run}"]}}})

    def branches(self):
        return set(
            subprocess.check_output(["git", "branch", "--format=%(refname:short)"], cwd=self.origin, text=True).split()
        )

    def file(self, branch, name):
        return subprocess.check_output(["git", "show", f"{branch}:{name}"], cwd=self.origin, text=True)


@pytest.fixture(scope="module")
def team(tmp_path_factory, bucket):
    made = Team(tmp_path_factory.mktemp("team"), bucket)
    yield made
    down = made.worker.fewstep("down")
    assert down.stdout.split("\n")[:2] == ["worker stopped", "prefect stopped"]


def test_one_command_makes_all_that_prefect_needs(team):
    names = {each["name"] for each in team.ask("deployments/filter", {})}
    assert {"nightly", "on-demand", "dataset", "distill", "rl", "evaluate"} <= names
    assert team.ask("work_pools/fewstep")["status"] == "READY"
    assert team.ask("v2/concurrency_limits/fewstep-gpu")["limit"] == 1
    watch = team.ask("automations/filter", {})
    assert [(each["enabled"], each["trigger"]["within"]) for each in watch] == [(True, 540.0)]


@pytest.fixture(scope="module")
def nightly(team):
    """The id of a deployment whose schedule was switched on; none of its runs is due while the tests run."""
    evaluate = team.ask("deployments/name/stage/evaluate")["id"]
    schedule = {"cron": f"0 {(datetime.now(UTC) + timedelta(hours=12)).hour} * * *", "timezone": "UTC"}
    team.ask(f"deployments/{evaluate}/schedules", [{"active": True, "schedule": schedule}])
    return evaluate


@pytest.fixture(scope="module")
def dead(team):
    """A run that was killed after its first sign of life, under the project's watch with less patience."""
    watch = setup.watch(5).model_dump(mode="json") | {"name": "less patience"}
    watch["trigger"]["match_related"] = {"prefect.resource.id": "prefect.tag.dies"}  # other runs beat less often
    team.ask("automations/", watch)
    code = (
        "import time; from prefect import flow, tags\n@flow\ndef dies(): time.sleep(10**4)\nwith tags('dies'): dies()"
    )
    environment = os.environ | {"PREFECT_API_URL": f"http://127.0.0.1:{team.port}/api"}
    environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = "30"
    beats = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}, "related": {"id": ["prefect.tag.dies"]}}}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: team.ask("events/filter", beats)["total"])
        process.kill()
    (run,) = team.ask("flow_runs/filter", {"flows": {"name": {"any_": ["dies"]}}})
    return run["id"]


def test_what_takes_a_while_is_begun(team, nightly, dead):
    assert team.state(dead)["type"] in ("RUNNING", "CRASHED"), "nobody has ended it, or the watch has found it already"
    assert team.ask(f"deployments/{nightly}")["schedules"][0]["active"]


def test_what_the_form_does_not_take_is_never_queued(team):
    with pytest.raises(urllib.error.HTTPError) as refusal:
        team.begin(stage="dataset", experiment="nonsense")
    assert refusal.value.code == 409
    assert b"'nonsense' is not one of" in refusal.value.read()


def test_gpu_slots_are_waited_for(team):
    """Two stages of two processes want the one GPU: one after the other."""
    code = (
        "import time; from flows.workers import gpu_limit\n"
        f"with gpu_limit.taken(2.0, {PATIENCE_S}) as held:\n"
        "    began = time.time(); time.sleep(1.0); print(held, began, time.time())"
    )
    environment = os.environ | {"PREFECT_API_URL": f"http://127.0.0.1:{team.port}/api", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE) for _ in range(2)]
    spans = sorted(tuple(map(float, process.communicate(timeout=PATIENCE_S)[0].split())) for process in processes)
    assert [held for held, _, _ in spans] == [1, 1]
    first, second = sorted(spans, key=lambda span: span[1])
    assert second[1] >= first[2], "they held the one slot at once"

    hold = [sys.executable, "-c", code.replace("1.0", "10**4")]
    with subprocess.Popen(hold, env=environment, stdout=subprocess.DEVNULL) as holder:
        wait_for(lambda: team.ask("v2/concurrency_limits/fewstep-gpu")["active_slots"] == 1)
        late = [sys.executable, "-c", code.replace(str(PATIENCE_S), "2")]
        waited = subprocess.run(
            late, env=environment, text=True, stderr=subprocess.PIPE, timeout=PATIENCE_S, check=False
        )
        assert "1 slots of the limit fewstep-gpu were not free within 2 s; end the runs that hold them" in waited.stderr
        holder.kill()


def test_hydra_s_refusal_is_the_runs_message_and_no_work_is_done(team):
    run = team.begin(stage="dataset", experiment="smoke", overrides=["teacher.colour=red"])
    state = team.end(run)
    assert (state["name"], team.children(run)) == ("Failed", [])
    assert state["message"].startswith("teacher.colour=red: teacher has no 'colour'; valid: kind, ")
    assert not list((team.worker.root / ".fewstep/scheduled/clones").iterdir())


def test_a_cancelled_run_leaves_nothing_alive(team):
    run = team.begin(stage="dataset", experiment="smoke")
    wait_for(lambda: any("raylet" in " ".join(processes.words(each)) for each in of_run(run)))
    team.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert team.end(run)["type"] == "CANCELLED"
    assert not list(of_run(run))
    assert not team.branches() & {f"runs/{run}"}
    assert all(child["state"]["type"] in FINAL for child in team.children(run))


def test_a_run_gives_its_data_and_its_lock_to_the_team(team, tmp_path):
    run = team.begin(stage="dataset", experiment="smoke")
    assert team.end(run)["type"] == "COMPLETED", team.said(run)
    children = team.children(run)
    assert {each["state"]["type"] for each in children} == {"COMPLETED"}
    (child,) = [each for each in children if each["name"].startswith("pipeline-")]
    assert "dataset" in {each["name"] for each in children}
    (branch,) = {each for each in team.branches() if each.startswith("runs/")}
    assert "data/dataset" in team.file(branch, "dvc.lock")
    assert "iterations: 100" in team.file(branch, "params.yaml")
    (artefact,) = team.ask("artifacts/filter", {"artifacts": {"key": {"any_": ["scheduled-run"]}}})
    assert branch in artefact["data"]
    assert child["id"] in artefact["data"]
    assert (team.worker.root / "mlruns/mlflow.db").is_file(), "MLflow's record outlives the clone"
    assert not list((team.worker.root / ".fewstep/scheduled/clones").glob(f"*{run[-8:]}")), (
        "it is shared: no clone stays"
    )

    colleague = tmp_path / "colleague"
    subprocess.run(["git", "clone", "-q", "-b", branch, team.origin, colleague], check=True)
    for words in (["pull"], ["repro", "--single-item"]):
        dvc = [sys.executable, "-m", "dvc", *words, "dataset"]
        done = subprocess.run(dvc, check=False, cwd=colleague, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "didn't change, skipping" in done.stdout
    assert (colleague / "data/dataset/manifest.json").is_file()


def test_a_worker_without_a_cache_takes_from_s3_what_was_made(team):
    shutil.rmtree(team.worker.root / ".dvc/cache")
    run = team.begin(stage="dataset", experiment="smoke")
    assert team.end(run)["type"] == "COMPLETED", team.said(run)
    assert "cached   dataset" in team.said(run)
    assert [each["name"][:9] for each in team.children(run)] == ["pipeline-"], "no stage ran"


def test_a_run_that_died_is_shown_as_crashed(team, dead):
    state = team.end(dead)
    assert state["type"] == "CRASHED"
    assert state["message"].startswith("no sign of life for 15 s: its process or its machine has died")


def test_a_schedule_that_is_switched_on_queues_its_next_runs(team, nightly):
    of_it = {"deployments": {"id": {"any_": [nightly]}}}
    wait_for(lambda: len(team.ask("flow_runs/filter", of_it)) >= 3)
    assert {run["state"]["type"] for run in team.ask("flow_runs/filter", of_it)} == {"SCHEDULED"}
