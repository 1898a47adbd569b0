"""The way from a laptop's Prefect to the team's."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

from tests.flows.clone import ROOT, ask, give_databases
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


HISTORY = """
from prefect import flow, get_client, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from tests.waiting import wait_for
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
    def written():
        states = [client.read_task_run_states(run.id) for run in client.read_task_runs()]
        return states and all(each and each[-1].is_completed() for each in states)
    wait_for(written)
"""


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """A project whose Prefect has the history of three flow runs: one within another, and one that failed."""
    folder = tmp_path_factory.mktemp("history")
    (folder / ".fewstep").mkdir()
    give_databases(folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(folder / ".fewstep/prefect"), "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true"}
    environment["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = str(int(PATIENCE_S))  # its own are 20 s
    environment["PYTHONPATH"] = str(ROOT)
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
